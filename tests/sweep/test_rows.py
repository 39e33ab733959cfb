"""Rows on disk: what was appended is there again, whatever byte a kill came at; other people's files are left alone."""

import math
import string
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mallocgame.errors import InputError
from mallocgame.sweep.rows import Columns, RowFile

COLUMNS: Columns = {"job": str, "name": str, "status": str, "good": bool, "seconds": float, "error": str}
TEXT = st.text(string.ascii_letters + string.digits + " ,\"'=-é", max_size=8)
ROW = st.fixed_dictionaries(
    {
        "job": st.text(string.hexdigits, min_size=1, max_size=2),
        "name": TEXT.filter(lambda text: text != "" and not text.startswith(("=", "-", "'"))),
        "status": st.sampled_from(["made", "refused", "failed"]),
        "good": st.none() | st.booleans(),
        "seconds": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "error": st.none() | st.just("why, then"),
    }
)


@given(st.lists(ROW, max_size=5), st.sampled_from([".csv", ".jsonl"]), st.integers(0, 400), ROW)
def test_a_torn_file_loses_only_its_last_row(rows: list[dict[str, Any]], suffix: str, cut: int, after: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows{suffix}"
        sizes = [0]
        with RowFile.open(path, COLUMNS) as table:
            for row in rows:
                table.append(row)
                sizes.append(path.stat().st_size)
        if not rows:
            assert not path.exists()
            return
        cut = min(cut, sizes[-1])
        path.write_bytes(path.read_bytes()[:cut])
        whole = sum(size <= cut for size in sizes[1:])
        with RowFile.open(path, COLUMNS) as table:
            assert table.rows == {row["job"]: row for row in rows[:whole]}
            table.append(after)
            assert table.is_made(after["job"]) == (after["status"] != "failed")
        with RowFile.open(path, COLUMNS) as table:
            expected = {**{row["job"]: row for row in rows[:whole]}, after["job"]: after}
            assert table.rows == expected
            table.settle([after["job"]])
        with RowFile.open(path, COLUMNS) as table:
            assert table.rows == expected
            assert list(table.rows)[-1] == after["job"]
        assert path.read_text(encoding="utf-8").count("\n") == len(expected) + (suffix == ".csv")


def test_figures_that_are_none(tmp_path: Path) -> None:
    with RowFile.open(tmp_path / "rows.jsonl", COLUMNS) as table:
        table.append({"job": "a", "status": "made", "seconds": math.nan})
    with RowFile.open(tmp_path / "rows.jsonl", COLUMNS) as table:
        assert table.rows["a"]["seconds"] is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.csv", "job,name\n1,2\n"),
        ("notes.csv", "a line of notes"),
        ("notes.csv", "job,name,status,good,seconds,error\na,b,made,True,fast,\n"),
        ("notes.csv", "job,name,status,good,seconds,error\na,b\n"),
        ("notes.jsonl", "a line of notes"),
        ("notes.jsonl", '{"name": "x"}\n'),
        ("notes.jsonl", '{"job": "x", "status": "made", "other": 1}\n'),
        ("notes.jsonl", '{"job": "x", "status": "made", "good": 1}\n'),
        ("notes.txt", ""),
    ],
)
def test_files_of_others_are_left_alone(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with (
        pytest.raises(InputError, match=f"{name}.*(expected|another|does not write|has 2 cells)"),
        RowFile.open(path, COLUMNS),
    ):
        pass
    assert path.read_text(encoding="utf-8") == content


def test_one_sweep_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with RowFile.open(path, COLUMNS):
        with pytest.raises(InputError, match="another sweep"), RowFile.open(path, COLUMNS):
            pass
        assert path.exists()
    with RowFile.open(path, COLUMNS) as table:
        assert not table.rows
