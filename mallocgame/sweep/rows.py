"""The rows of a sweep in a file: CSV or JSON Lines, appended one by one, read again by the next sweep."""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from mallocgame.errors import InputError, TraceError
from mallocgame.files import check_writable, parse_json, read_bytes, write_text
from mallocgame.system import try_lock
from mallocgame.text import cell

Row = dict[str, Any]
Columns = Mapping[str, type]  # str, bool, float or object (JSON Lines only); every cell but text may be None
JOB, STATUS = "job", "status"
NOT_MADE = ("failed", "interrupted")  # these are made again by the next sweep
SUFFIXES = (".csv", ".jsonl")


class RowFile:
    """Rows by the key of their job, the latest of each; on disk, too, where there is a path.

    A row that is appended is on disk before ``append`` returns. A last line that a kill tore is cut off when the file
    is opened again.
    """

    def __init__(self, columns: Columns, path: Path | None = None) -> None:
        """Begin without rows; ``open`` reads those of a file and locks it."""
        self.columns, self.path = columns, path
        self.rows: dict[str, Row] = {}
        self._file: int | None = None

    @classmethod
    @contextmanager
    def open(cls, path: Path | None, columns: Columns) -> Iterator[Self]:
        """Yield the rows in a file that one sweep at a time writes to; no path: rows in memory.

        Raises:
            InputError: another sweep writes to it, it cannot be written, or a name with another ending.
            TraceError: it holds something else than rows of such a sweep.
        """
        found = cls(columns, path)
        if path is None:
            yield found
            return
        if path.suffix not in SUFFIXES:
            raise InputError(f"{path}: expected a name that ends in {' or '.join(SUFFIXES)}")
        check_writable(path)
        is_new = not path.exists()
        with found._locked(path):
            try:
                found._read(path)
                yield found
            finally:
                if is_new and not found.rows:
                    path.unlink(missing_ok=True)

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise InputError(f"{path}: cannot write: {error.strerror or error}") from None
        try:
            if not try_lock(self._file):
                raise InputError(f"{path}: another sweep writes to this file; name another one")
            yield
        finally:
            os.close(self._file)
            self._file = None

    def is_made(self, key: str) -> bool:
        """Whether the row of a job is there and final."""
        return key in self.rows and self.rows[key][STATUS] not in NOT_MADE

    def append(self, row: Row) -> Row:
        """Keep a row, which takes the place of an earlier one of its job; return it with all its columns.

        Raises:
            InputError: it cannot be written.
        """
        row = {name: _finite(row.get(name)) for name in self.columns}
        self.rows[row[JOB]] = row
        if self._file is None or self.path is None:
            return row
        text = _text(self.path, self.columns, [row], header=os.fstat(self._file).st_size == 0)
        try:
            _write_all(self._file, text.encode())
            os.fsync(self._file)
        except OSError as error:
            raise InputError(f"{self.path}: cannot write: {error.strerror or error}") from None
        return row

    def settle(self, order: Iterable[str] = ()) -> None:
        """Write the file anew, for the last time: one row a job, those of ``order`` last and in that order.

        Raises:
            InputError: it cannot be written; the file is as it was.
        """
        last = [key for key in order if key in self.rows]
        chosen = set(last)
        self.rows = {key: self.rows[key] for key in (*(k for k in self.rows if k not in chosen), *last)}
        if self.path is not None and self.rows:
            write_rows(self.path, self.columns, self.rows.values())

    def _read(self, path: Path) -> None:
        assert self._file is not None
        data = read_bytes(path)
        whole, newline, torn = data.rpartition(b"\n")
        header = _text(path, self.columns, [], header=True).encode()
        begins = header if path.suffix == ".csv" and not newline else b'{"' + JOB.encode()
        if torn and path.suffix == ".jsonl" and torn[: len(begins)] != begins[: len(torn)]:
            raise TraceError(path, None, "does not end as the rows of a sweep do; name another file")
        if torn and path.suffix == ".csv" and not newline and not begins.startswith(torn):
            raise TraceError(path, 1, "is not the header of such a sweep; name another file")
        text = (whole + newline).decode("utf-8", errors="replace")
        read = _read_csv if path.suffix == ".csv" else _read_jsonl
        for row in read(path, text, self.columns):
            self.rows[row[JOB]] = row
        if torn:
            os.ftruncate(self._file, len(whole + newline))


def write_rows(path: Path, columns: Columns, rows: Iterable[Row]) -> None:
    """Write rows to a file as a whole: CSV or JSON Lines by its name.

    Raises:
        TraceError: it cannot be written.
    """
    write_text(path, _text(path, columns, rows, header=True))


def _text(path: Path, columns: Columns, rows: Iterable[Row], *, header: bool) -> str:
    if path.suffix != ".csv":
        return "".join(json.dumps({JOB: row[JOB], **row}) + "\n" for row in rows)
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(columns), lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows({key: cell(value) for key, value in row.items()} for row in rows)
    return out.getvalue()


def _read_jsonl(path: Path, text: str, columns: Columns) -> Iterator[Row]:
    for number, line in enumerate(text.splitlines(), 1):
        row = parse_json(line, f"{path}:{number}")
        if not isinstance(row, dict) or not isinstance(row.get(JOB), str) or not isinstance(row.get(STATUS), str):
            raise TraceError(path, number, "is not a row of a sweep; name another file")
        if extra := sorted(row.keys() - columns.keys()):
            raise TraceError(path, number, f"has a column {extra[0]!r}, which this command does not write")
        for name in columns:
            value = row.setdefault(name, None)
            if value is not None and not _is_of(columns[name], value):
                raise TraceError(path, number, f"{name} is {value!r}, expected a {columns[name].__name__}")
        yield {name: row[name] for name in columns}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_of(kind: type, value: Any) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind)


def _read_csv(path: Path, text: str, columns: Columns) -> Iterator[Row]:
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(lines, None)
        if header is None:
            return
        if header != list(columns):
            raise TraceError(path, 1, f"expected the columns {','.join(columns)}; name another file")
        for cells in lines:
            if len(cells) != len(columns):
                raise TraceError(path, lines.line_num, f"has {len(cells)} cells, expected {len(columns)}")
            yield {
                name: _value(path, lines.line_num, name, kind, text)
                for (name, kind), text in zip(columns.items(), cells, strict=True)
            }
    except csv.Error as error:
        raise TraceError(path, lines.line_num, f"is not CSV: {error}") from None


def _value(path: Path, line: int, name: str, kind: type, text: str) -> Any:
    """Return the value of a cell as ``_text`` writes it."""
    if kind is str:
        return text if text or name in (JOB, STATUS) else None
    if not text:
        return None
    if kind is bool and text in ("True", "False"):
        return text == "True"
    try:
        if kind is float:
            return float(text)
    except ValueError:
        pass
    raise TraceError(path, line, f"{name} is {text!r}, expected a {kind.__name__}")


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
