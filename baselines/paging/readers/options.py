"""What a user may say about a file; whatever is left out is found in the file, or asked for."""

from dataclasses import dataclass

from mallocgame.errors import InputError

DELIMITERS = {"comma": ",", "tab": "\t", "semicolon": ";", "pipe": "|", "space": " ", "\\t": "\t"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How to read a trace file.

    Attributes:
        format: one of ``mallocgame.baselines.paging.readers.FORMATS``, or "auto": by the file's name.
        column: of a table, the column of the page id: index from 0, or name in the header. None: the only column, or
            the one whose header is a usual name of a page id.
        size_column: of a table, the column of the size in bytes; records of size 0 are then skipped.
        delimiter: of a table: one ASCII character or a name from DELIMITERS; None: found in the first lines.
        header: whether the first line of a table names the columns; None: found by its looks.
        keys: "integer": every id must be one; "text": ids are compared byte for byte; "auto": integers where all are.
        block_tokens: tokens of one block of a prompt; None: from the lengths in the file.
        time_unit: of the timestamps of prompts, "ms" or "s"; None: from the file.
        page_bytes: ids are byte addresses in pages of so many bytes; None: an id is a page.
        spill: keep the sequence in a temporary file, not in memory.
    """

    format: str = "auto"
    column: str | None = None
    size_column: str | None = None
    delimiter: str | None = None
    header: bool | None = None
    keys: str = "auto"
    block_tokens: int | None = None
    time_unit: str | None = None
    page_bytes: int | None = None
    spill: bool = False

    def __post_init__(self) -> None:
        if self.keys not in ("auto", "integer", "text"):
            raise InputError(f"keys are auto, integer or text, got {self.keys!r}")
        if self.time_unit not in (None, "ms", "s"):
            raise InputError(f"a time unit is ms or s, got {self.time_unit!r}")
        if self.block_tokens is not None and self.block_tokens < 1:
            raise InputError(f"a block has at least 1 token, got {self.block_tokens}")
        if self.page_bytes is not None and not 1 <= self.page_bytes < 2**63:
            raise InputError(f"a page has at least 1 byte and fewer than 2**63, got {self.page_bytes}")
        if self.page_bytes is not None and self.keys == "text":
            raise InputError("addresses are numbers: --page-bytes and --keys text exclude each other")
        plain = self.plain_delimiter
        if plain is not None and (len(plain) != 1 or not plain.isascii() or plain in '"\n\r'):
            raise InputError(f"a CSV delimiter is one ASCII character, got {self.delimiter!r}")

    @property
    def plain_delimiter(self) -> str | None:
        """The delimiter as one character."""
        return None if self.delimiter is None else DELIMITERS.get(self.delimiter, self.delimiter)
