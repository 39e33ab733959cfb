"""What `mallocgame paging` reads: files of many formats, programs, and generators; and the options that say how."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mallocgame.cli.common import progress, say
from mallocgame.errors import InputError

if TYPE_CHECKING:
    from mallocgame.baselines.paging import PageTrace
    from mallocgame.baselines.paging.readers import ReadOptions

TRACE_HELP = (
    "A file (page ids as text or CSV, oracleGeneral, lcs, vscsi, ARC, LIRS, prompts as JSONL; also packed), a program "
    "trace or a shipped one (its tensors become tiles), or a generator: zipf, cyclic, moe, kv, chat with options, such "
    "as zipf:num_pages=99,seed=1."
)
TraceArgument = Annotated[str, typer.Argument(metavar="TRACE", help=TRACE_HELP)]

_OPTIONS: dict[str, tuple[Any, Any]] = {
    "kind": (
        Annotated[
            str,
            typer.Option(
                "--format",
                help="text, csv, oracle, lcs, vscsi, arc, lirs, prompts (JSONL) or program; auto: by file name.",
            ),
        ],
        "auto",
    ),
    "column": (
        Annotated[str | None, typer.Option("--column", help="Table: page id's column, index from 0 or header name.")],
        None,
    ),
    "size_column": (
        Annotated[str | None, typer.Option("--size-column", help="Table: column of sizes; size 0 is skipped.")],
        None,
    ),
    "delimiter": (
        Annotated[str | None, typer.Option("--delimiter", help="Table: one character, or tab, space; found if left.")],
        None,
    ),
    "header": (
        Annotated[bool | None, typer.Option("--header/--no-header", help="Table: whether line 1 names the columns.")],
        None,
    ),
    "keys": (
        Annotated[str, typer.Option("--keys", help="Page ids: integer, text, or auto (integers if all are).")],
        "auto",
    ),
    "block_tokens": (
        Annotated[int | None, typer.Option("--block-tokens", help="Prompts: tokens of a block; found if left out.")],
        None,
    ),
    "time_unit": (
        Annotated[str | None, typer.Option("--time-unit", help="Prompts: ms or s; found if left out.")],
        None,
    ),
    "page_bytes": (
        Annotated[int | None, typer.Option("--page-bytes", help="Ids are byte addresses, in pages of so many bytes.")],
        None,
    ),
    "tile_bytes": (
        Annotated[int, typer.Option("--tile-bytes", help="Page size when a program is split into tiles.")],
        65536,
    ),
    "spill": (
        Annotated[bool, typer.Option("--spill", help="Keep the sequence in a temporary file, not in memory.")],
        False,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """How a command's traces are opened."""

    options: "ReadOptions"
    tile_bytes: int

    def open(self, text: str) -> "PageTrace":
        """Open a trace as unit pages; what was assumed is said on standard error."""
        from pathlib import Path

        from mallocgame.baselines.paging import read_trace

        trace: PageTrace | None = generate(text)
        if self.options.page_bytes is not None and (trace is not None or self._is_program(text)):
            raise InputError(f"{text} has no addresses: --page-bytes is for files (a program has --tile-bytes)")
        if trace is None and self._is_program(text):
            trace = self._tiles(text).pages
        if trace is None:
            path = Path(text)
            size = path.stat().st_size if path.is_file() else 0
            with progress(f"reading {path.name}", size or None) as on_progress:
                trace = read_trace(path, options=self.options, on_progress=on_progress)
        for note in trace.notes:
            say(f"{trace.name}: {note}")
        return trace

    def open_sized(self, text: str) -> Any:
        """Open a trace of sized pages."""
        from mallocgame.baselines.paging.readers import read_sized

        if generate(text) is not None:
            raise InputError(f"{text}: the pages of a generator have no sizes, and this command needs them")
        accesses = self._tiles(text) if self._is_program(text) else read_sized(text, options=self.options)
        for note in accesses.pages.notes:
            say(f"{accesses.pages.name}: {note}")
        return accesses

    def tiled(self, text: str) -> Any:
        """Open a program as tiles, with which tensor each tile belongs to."""
        from mallocgame.baselines.paging import tile_program
        from mallocgame.cli.traces import open_trace

        tiled = tile_program(open_trace(text).program, self.tile_bytes)
        if tiled.truncated:
            say(f"the unrolled program is longer than {tiled.accesses.pages.num_requests} requests; its start is used")
        return tiled

    def _tiles(self, text: str) -> Any:
        return self.tiled(text).accesses

    def _is_program(self, text: str) -> bool:
        from pathlib import Path

        if self.options.format != "auto":
            return self.options.format == "program"
        name = text.lower().removesuffix(".gz")
        return name.endswith(".json") or not (Path(text).exists() or "." in Path(text).name)


def reads_traces(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say how a trace is read, and pass them to it as ``source``."""

    @wraps(command)
    def wrapped(**arguments: Any) -> None:
        from mallocgame.baselines.paging.readers import ReadOptions

        read = {name: arguments.pop(name) for name in _OPTIONS}
        tile_bytes = read.pop("tile_bytes")
        options = ReadOptions(format=read.pop("kind"), **read)
        command(**arguments, source=Source(options=options, tile_bytes=tile_bytes))

    own = inspect.signature(command)
    kept = [parameter for name, parameter in own.parameters.items() if name != "source"]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in _OPTIONS.items()
    ]
    kept = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in kept]
    wrapped.__signature__ = own.replace(parameters=kept + added)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in kept + added}
    return wrapped


def write_rows(out: str | None, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON Lines or CSV where a file was named."""
    if out is None:
        return
    import csv
    import io
    import json

    from mallocgame.files import write_text
    from mallocgame.text import cell

    found = [dict(row) for row in rows]
    text = io.StringIO()
    if not out.endswith(".csv"):
        for row in found:
            text.write(json.dumps({key: _plain(value) for key, value in row.items()}) + "\n")
    else:
        writer = csv.DictWriter(text, list(dict.fromkeys(key for row in found for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: cell(value) for key, value in row.items()} for row in found)
    try:
        write_text(out, text.getvalue())
    except OSError as error:
        raise InputError(f"--out {out}: cannot write: {error.strerror or error}") from None
    say(f"wrote {out}")


def _plain(value: Any) -> Any:
    """JSON has no NaN and no NumPy numbers."""
    plain = value.item() if hasattr(value, "item") else value
    return None if isinstance(plain, float) and plain != plain else plain


def generate(text: str) -> "PageTrace | None":
    """Make the sequence that "NAME:option=value,..." or a bare generator name describes, None if it is neither."""
    from inspect import signature
    from pathlib import Path

    from mallocgame.baselines.paging.generators import GENERATORS

    name, _, rest = text.partition(":")
    if name not in GENERATORS or Path(text).exists():
        return None
    make = GENERATORS[name]
    known = {key: parameter.default for key, parameter in signature(make).parameters.items()}
    options: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if key not in known or not equals:
            raise InputError(f"generator {name!r} has no option {part!r}; there are: {', '.join(known)}")
        try:
            options[key] = float(value) if isinstance(known[key], float) else int(value)
        except ValueError:
            raise InputError(f"generator {name!r}: {key} must be a number, got {value!r}") from None
    missing = [key for key, default in known.items() if default is inspect.Parameter.empty and key not in options]
    if missing:
        raise InputError(f"generator {name!r} needs {', '.join(missing)}, such as {name}:{missing[0]}=100")
    made: PageTrace = make(**options)
    return made
