"""Page ids as plain text, and as one column of a table; nothing is taken silently for what it may not be."""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mallocgame.baselines.paging.readers.addresses import address_note, address_pages
from mallocgame.baselines.paging.readers.files import Progress, bare_name, first_lines, text_blocks
from mallocgame.baselines.paging.readers.keys import (
    BAD_QUOTE,
    NO_COLUMN,
    OK,
    OPEN_QUOTE,
    RAGGED,
    WHITE,
    NotIntegersError,
    Tokens,
    TokenSource,
    find_fields,
    find_tokens,
    integer_ids,
    key_ids,
    parse_integers,
)
from mallocgame.baselines.paging.readers.options import ReadOptions
from mallocgame.baselines.paging.structures import I64, U64
from mallocgame.baselines.paging.trace import PageTrace, from_chunks
from mallocgame.errors import InputError, TraceError

StrPath = str | os.PathLike[str]
ID_NAMES = frozenset(
    (
        "key",
        "keys",
        "id",
        "ids",
        "obj",
        "obj_id",
        "object",
        "object_id",
        "objid",
        "lbn",
        "lba",
        "block",
        "block_id",
        "blockid",
        "block_number",
        "page",
        "page_id",
        "pageid",
        "hash",
        "key_hash",
        "hash_id",
        "item",
        "item_id",
        "itemid",
        "address",
        "addr",
        "url",
    )
)
_DETECTED = ",\t;|"
_MOST_BLOCKS = 2**20  # of one ARC request: 512 MiB
_REASONS = {
    NO_COLUMN: "the line has too few columns",
    RAGGED: "the line does not have as many columns as the first",
    OPEN_QUOTE: "a quoted field does not end on its line",
    BAD_QUOTE: "a closing quote must be followed by a delimiter",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a table is laid out: its delimiter, the lines before the data, its columns, and what to tell the user."""

    delimiter: int
    skip_lines: int
    columns: tuple[str, ...]
    header: bool
    notes: tuple[str, ...] = ()

    def index(self, path: Path, column: str) -> int:
        """Return the index of a column given by index or name."""
        if self.header and column in self.columns:
            return self.columns.index(column)
        if column.isdecimal():
            if int(column) < len(self.columns):
                return int(column)
            raise TraceError(path, None, f"there is no column {column}: {self.listed()}")
        same = [i for i, name in enumerate(self.columns) if self.header and name.lower() == column.lower()]
        if len(same) == 1:
            return same[0]
        raise TraceError(path, None, f"there is no column {column!r}: {self.listed()}")

    def listed(self) -> str:
        """Name all columns for an error message."""
        names = ", ".join(f"{i}: {name[:30]}" for i, name in enumerate(self.columns))
        return f"the columns are {names}" if self.header else f"the first line has {names}"


def read_text(path: StrPath, *, options: ReadOptions | None = None, on_progress: Progress | None = None) -> PageTrace:
    """Read page ids as text: any number a line, white space between them, '#' starts a comment line.

    Raises:
        TraceError: with format "auto", what looks like a table: then a column has to be chosen.
    """
    file, options = Path(path), options or ReadOptions(format="text")
    lines = [line for line in first_lines(file) if line.strip() and not line.lstrip().startswith(b"#")]
    if options.format == "auto":
        _refuse_table(file, lines)
    heading = _text_heading(lines)
    notes: tuple[str, ...] = ()
    if heading:
        notes = (f"the first line, {heading.decode('utf-8', 'replace')!r}, is taken as a heading",)
    notes += _address_notes(options, _decoded(heading), lines[1 if heading else 0 :], 0, " ")

    def source() -> Iterator[Tokens]:
        line, waiting = 1, heading
        for data in text_blocks(file, on_progress):
            room = len(data) // 2 + 1
            starts, ends = np.empty(room, np.int64), np.empty(room, np.int64)
            count = find_tokens(np.frombuffer(data, np.uint8), starts, ends)
            first = 1 if waiting and count else 0
            waiting = b"" if count else waiting
            yield Tokens(data=data, starts=starts[first:count], ends=ends[first:count], line=line)
            line += data.count(b"\n")

    return _trace(file, source, options, notes)


def _refuse_table(path: Path, lines: list[bytes]) -> None:
    """Refuse a file of text that looks like a table or JSON Lines: a choice would be made silently."""
    sample = lines[:64]
    if sample and sample[0].lstrip().startswith((b'{"', b'{ "')):
        raise TraceError(path, None, "looks like JSON Lines; say --format prompts or --format mooncake")
    if len(sample) < 2:
        return
    for delimiter in ",;|":
        count = sample[0].count(delimiter.encode())
        if count and all(line.count(delimiter.encode()) == count for line in sample):
            layout = find_layout(path, lines, ReadOptions(delimiter=delimiter))
            raise TraceError(path, None, f"looks like a table; {layout.listed()}; choose one with --column")
    widths = {len(line.split()) for line in sample}
    if len(widths) == 1 and widths != {1}:
        layout = find_layout(path, lines, ReadOptions(delimiter="space"))
        raise TraceError(
            path,
            None,
            f"every line has {widths.pop()} columns; {layout.listed()}; choose one with --column, or say "
            "--format text if every number is a page id",
        )


def _text_heading(lines: list[bytes]) -> bytes:
    """Return the first line if it is a heading: one word over integers, or a usual name of a page id."""
    if len(lines) < 2 or len(lines[0].split()) != 1 or _is_integer(lines[0].strip()):
        return b""
    word = lines[0].strip()
    below = [token for line in lines[1:] for token in line.split()]
    named = word.strip(b'"').decode("utf-8", "replace").lower() in ID_NAMES
    return word if named or (word[:1].isalpha() and all(map(_is_integer, below))) else b""


def read_csv(
    path: StrPath,
    *,
    column: str | None = None,
    delimiter: str | None = None,
    options: ReadOptions | None = None,
    on_progress: Progress | None = None,
) -> PageTrace:
    """Read page ids from one column of a table.

    Args:
        path: the file.
        column: index from 0, or name in the header line; None: see ``ReadOptions``.
        delimiter: None: found in the first lines.
        options: everything else; ``column`` and ``delimiter`` go before what it says.
        on_progress: called with the number of bytes read.

    Raises:
        TraceError: several columns and none chosen (the message lists them), no such column, a line with another
            number of columns, a broken quote, or an empty id.
    """
    file, base = Path(path), options or ReadOptions()
    options = replace(
        base,
        column=column if column is not None else base.column,
        delimiter=delimiter if delimiter is not None else base.delimiter,
    )
    lines = first_lines(file)
    if not any(line.strip() for line in lines):
        return PageTrace(name=file.name, pages=np.zeros(0, np.int32), num_pages=0)
    layout = find_layout(file, lines, options)
    index, notes = choose_column(file, layout, options.column)
    skipped = [0]
    chosen = [index] + ([layout.index(file, options.size_column)] if options.size_column is not None else [])

    def source() -> Iterator[Tokens]:
        skipped[0] = 0
        for tokens, sizes in columns(file, layout, chosen, on_progress):
            if sizes is None:
                yield tokens
                continue
            keep = sizes > 0
            skipped[0] += int(np.sum(~keep))
            yield Tokens(data=tokens.data, starts=tokens.starts[keep], ends=tokens.ends[keep], line=tokens.line)

    name = layout.columns[index] if layout.header else ""
    notes += _address_notes(options, name, lines[layout.skip_lines :], index, chr(layout.delimiter))
    trace = _trace(file, source, options, layout.notes + notes)
    return trace.noting(zero_note(skipped[0]))


def zero_note(skipped: int) -> str:
    """Tell how many records of size 0 were skipped; empty for none."""
    return f"skipped {skipped} records of size 0, as libCacheSim does" if skipped else ""


def columns(
    path: Path, layout: Layout, chosen: list[int], on_progress: Progress | None = None
) -> Iterator[tuple[Tokens, I64 | None]]:
    """Yield the tokens of column ``chosen[0]``, and int64 numbers of column ``chosen[1]`` where there is one."""
    wanted, line, skip = np.array(chosen, np.int64), 1, layout.skip_lines
    for block in text_blocks(path, on_progress):
        data = block
        while skip and data:
            _, _, data = data.partition(b"\n")
            skip -= 1
            line += 1
        shape = (data.count(b"\n") + 1, wanted.size)
        starts, ends = np.empty(shape, np.int64), np.empty(shape, np.int64)
        array = np.frombuffer(data, np.uint8)
        count, status, at = find_fields(array, layout.delimiter, wanted, len(layout.columns), starts, ends)
        if status != OK:
            shown = data.split(b"\n")[at][:60].decode("utf-8", "replace")
            raise TraceError(path, line + at, f"{_REASONS[status]} ({len(layout.columns)} columns): {shown!r}")
        tokens = Tokens(data=data, starts=starts[:count, 0].copy(), ends=ends[:count, 0].copy(), line=line)
        yield tokens, None if wanted.size == 1 else _numbers(path, layout, tokens, starts[:count, 1], ends[:count, 1])
        line += data.count(b"\n")


def _numbers(path: Path, layout: Layout, tokens: Tokens, starts: I64, ends: I64) -> I64:
    values = np.empty(starts.size, np.uint64)
    data = np.frombuffer(tokens.data, np.uint8)
    at = parse_integers(data, starts.copy(), ends.copy(), values)
    if at >= 0 or (values.size and int(values.max()) >= 2**62):
        where = at if at >= 0 else int(values.argmax())
        shown = tokens.data[int(starts[where]) : int(ends[where])][:60].decode("utf-8", "replace")
        raise TraceError(path, tokens.line_of(where), f"a size must be a number of bytes, got {shown!r}")
    return values.astype(np.int64)


def choose_column(path: Path, layout: Layout, column: str | None) -> tuple[int, tuple[str, ...]]:
    """Return the index of the page id's column and what to tell the user.

    Raises:
        TraceError: none was named and there are several that may be it; the message lists them.
    """
    if column is not None:
        return layout.index(path, column), ()
    if len(layout.columns) == 1:
        return 0, ()
    if layout.header:
        usual = [i for i, name in enumerate(layout.columns) if _plain(name) in ID_NAMES]
        if len(usual) == 1:
            return usual[0], (f"column {layout.columns[usual[0]]!r} is taken as the page id (--column chooses)",)
    raise TraceError(path, None, f"choose the column of the page id with --column; {layout.listed()}")


def find_layout(path: Path, lines: list[bytes], options: ReadOptions) -> Layout:
    """Find delimiter, comments, header and columns from the first lines of a file."""
    text = [line.decode("utf-8", "replace").rstrip("\r") for line in lines]
    body = [i for i, line in enumerate(text) if line.strip() and not line.lstrip().startswith("#")]
    head = next((i for i, line in enumerate(text) if line.strip()), 0)
    start = body[0] if body else len(text)
    delimiter = options.plain_delimiter or _detect(bare_name(path), [text[i] for i in body[:64]])
    rows = [split(text[i], delimiter) for i in body[:64]]
    commented = start > head and text[start - 1].lstrip().startswith("#")
    names = split(text[start - 1].lstrip().lstrip("#").strip(), delimiter) if commented else []
    code = WHITE if delimiter == " " else ord(delimiter)
    if commented and rows and len(names) == len(rows[0]) and len(names) > 1 and options.header is not False:
        return Layout(delimiter=code, skip_lines=start, columns=tuple(names), header=True)
    if not rows:
        return Layout(delimiter=code, skip_lines=len(text), columns=("",), header=False)
    header = options.header if options.header is not None else _is_header(rows)
    plain = options.header is None and header and not any(_plain(name) in ID_NAMES for name in rows[0])
    notes = ("the first line is taken for the names of the columns (--no-header if it is not)",) if plain else ()
    return Layout(delimiter=code, skip_lines=start + header, columns=tuple(rows[0]), header=header, notes=notes)


def split(line: str, delimiter: str) -> list[str]:
    """Split one line into fields, quotes taken off."""
    if delimiter == " ":
        return [field.strip('"') for field in line.split()]
    reader = csv.reader([line], delimiter=delimiter, skipinitialspace=True)
    return [field.strip() for row in reader for field in row]


def _detect(name: str, lines: list[str]) -> str:
    """The delimiter that stands equally often on every line; the usual one of the file's name among equals."""
    usual = "\t" if name.endswith(".tsv") else ","
    best, best_count = usual, 0
    for delimiter in (usual, *_DETECTED):
        counts = {len(split(line, delimiter)) for line in lines}
        if len(counts) == 1 and max(counts) > max(1, best_count):
            best, best_count = delimiter, max(counts)
            if delimiter == usual:
                break
    widths = {len(line.split()) for line in lines}
    blanks = best_count == 0 and len(widths) == 1 and widths != {1} and not name.endswith((".csv", ".tsv"))
    return " " if blanks else best


def _is_header(rows: list[list[str]]) -> bool:
    """A header has different, non-empty names, none a number, over a column of values; or it names a page id."""
    first = rows[0]
    if not all(first) or len(set(first)) < len(first) or any(map(_is_value, first)):
        return False
    if any(_plain(name) in ID_NAMES for name in first):
        return True
    below = rows[1:]
    return bool(below) and any(all(at < len(row) and _is_value(row[at]) for row in below) for at in range(len(first)))


def _is_value(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text[:2].lower() == "0x"
    return text.lower() not in ("nan", "inf", "infinity")


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _is_integer(token: bytes) -> bool:
    return token.isdigit()


def _trace(path: Path, source: TokenSource, options: ReadOptions, notes: tuple[str, ...]) -> PageTrace:
    if options.page_bytes is not None:
        pages = address_pages(path, source, options.page_bytes)
        return from_chunks(pages, name=path.name, spill=options.spill, notes=notes)
    chunks: Iterator[U64] = key_ids(path, source)
    if options.keys != "text":
        try:
            chunks = integer_ids(path, source, options.keys)
            return from_chunks(chunks, name=path.name, spill=options.spill, notes=notes)
        except NotIntegersError:
            chunks = key_ids(path, source)
    return from_chunks(chunks, name=path.name, spill=options.spill, notes=notes)


def _address_notes(options: ReadOptions, name: str, lines: list[bytes], column: int, delimiter: str) -> tuple[str, ...]:
    """Return what to tell where a column looks like one of addresses and nothing was said about them."""
    first = next((_decoded(line) for line in lines if line.strip() and not line.lstrip().startswith(b"#")), "")
    fields = split(first, " " if delimiter == chr(WHITE) else delimiter)
    note = address_note(name, fields[column] if column < len(fields) else "")
    return (note,) if note and options.page_bytes is None and options.keys == "auto" else ()


def _decoded(line: bytes) -> str:
    return line.decode("utf-8", "replace").strip()


def read_lirs(path: StrPath, *, options: ReadOptions | None = None, on_progress: Progress | None = None) -> PageTrace:
    """Read a LIRS trace: one block number a line; lines of '*' are marks and are passed over."""
    file, options = Path(path), options or ReadOptions()

    def source() -> Iterator[Tokens]:
        line = 1
        for data in text_blocks(file, on_progress):
            room = len(data) // 2 + 1
            starts, ends = np.empty(room, np.int64), np.empty(room, np.int64)
            array = np.frombuffer(data, np.uint8)
            count = find_tokens(array, starts, ends)
            keep = array[starts[:count]] != ord("*")
            yield Tokens(data=data, starts=starts[:count][keep], ends=ends[:count][keep], line=line)
            line += data.count(b"\n")

    return _trace(file, source, options, ())


def read_arc(path: StrPath, *, options: ReadOptions | None = None, on_progress: Progress | None = None) -> PageTrace:
    """Read a trace of the ARC paper: ``first-block number-of-blocks ignored request-number`` a line.

    Raises:
        TraceError: a line that is not four integers, or a request for no block.
    """
    file, spill = Path(path), (options or ReadOptions()).spill
    layout = Layout(delimiter=WHITE, skip_lines=0, columns=("first", "blocks", "ignored", "number"), header=False)

    def chunks() -> Iterator[U64]:
        for tokens, counts in columns(file, layout, [0, 1], on_progress):
            first = np.empty(tokens.starts.size, np.uint64)
            at = parse_integers(np.frombuffer(tokens.data, np.uint8), tokens.starts, tokens.ends, first)
            if at >= 0:
                raise TraceError(file, tokens.line_of(at), f"expected a block number, got {tokens.token(at)!r}")
            assert counts is not None
            if counts.size and (int(counts.min()) < 1 or int(counts.max()) > _MOST_BLOCKS):
                at = int(np.argmax((counts < 1) | (counts > _MOST_BLOCKS)))
                reason = f"a request is for 1 to {_MOST_BLOCKS} blocks, got {int(counts[at])}"
                raise TraceError(file, tokens.line_of(at), reason)
            ends = np.cumsum(counts)
            inside = np.arange(int(ends[-1]) if ends.size else 0) - np.repeat(ends - counts, counts)
            yield np.repeat(first, counts) + inside.astype(np.uint64)

    return from_chunks(chunks(), name=file.name, spill=spill)


def unknown_format(name: str, formats: tuple[str, ...]) -> InputError:
    """Return the error for a format that does not exist."""
    return InputError(f"unknown trace format {name!r}; there are: {', '.join(formats)}")
