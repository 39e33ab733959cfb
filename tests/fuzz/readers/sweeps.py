"""Rows of sweeps, and tables of programs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fuzz.readers.shared import Reader, written


def _rows(suffix: str) -> Callable[[], list[bytes]]:
    from mallocgame.cli.compare_jobs import COLUMNS
    from mallocgame.sweep import RowFile

    def write(path: Path) -> None:
        with RowFile.open(path, COLUMNS) as table:
            for key, error in (("a1", None), ("b2", "why, then")):
                table.append(
                    {"job": key, "trace": "t", "status": "feasible", "valid": True, "gap": 0.5, "error": error}
                )

    return lambda: [written(write, f"rows{suffix}")]


def _read_rows(path: Path) -> Any:
    from mallocgame.cli.compare_jobs import COLUMNS
    from mallocgame.errors import InputError
    from mallocgame.sweep import RowFile

    before = path.read_bytes()
    try:
        with RowFile.open(path, COLUMNS) as table:
            return table.rows
    except InputError:
        assert path.read_bytes() == before, "a file that is refused was changed"
        raise


def _read_programs(path: Path) -> Any:
    from mallocgame.cli.programs import read_programs

    return read_programs(path, "v5e")


PROGRAMS = b'function,args,chip,mesh,name\nm:f,"bf16[8,128],f32[]",v4,,a\nm:f,,,data=2,b\n'


READERS = (
    Reader(name="rows-csv", suffix=".csv", seeds=_rows(".csv"), read=_read_rows),
    Reader(name="rows-jsonl", suffix=".jsonl", seeds=_rows(".jsonl"), read=_read_rows),
    Reader(name="programs", suffix=".csv", seeds=lambda: [PROGRAMS], read=_read_programs),
)
