"""Sweeps: the same rows wherever they are made, none twice, and workers may die."""

import gc
import json
from pathlib import Path
from typing import Any

import pytest

from mallocgame.sweep import Inline, Job, Pool, Processes, RowFile, source_digest, sweep
from mallocgame.sweep.schedule import _choose
from tests.sweep.work import COLUMNS, job, working


def _run(pool: Pool, jobs: list[Job], path: Path) -> list[dict[str, Any]]:
    """Return the rows that a sweep makes, as they stand on disk at the moment they are told of."""
    told = []

    def take(job: Job, row: dict[str, Any]) -> None:
        assert json.loads(path.read_text(encoding="utf-8").splitlines()[-1])["job"] == job.key
        told.append(row)

    with RowFile.open(path, COLUMNS) as table:
        sweep(jobs, pool, table, folder=path.parent, on_row=take)
        assert list(table.rows) == [row["job"] for row in told] or len(table.rows) > len(told)
    return told


def _pool(kind: str) -> Pool:
    if kind == "ray":
        pytest.importorskip("ray")
        from mallocgame.sweep.cluster import Cluster

        return Cluster(working, 2, "local")
    return Inline(working) if kind == "inline" else Processes(working, 2)


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_same_rows_on_ray(tmp_path: Path) -> None:
    try:
        test_the_same_rows_everywhere(tmp_path, "ray")
    finally:
        gc.collect()  # Ray forgets processes that it has ended, which would be told of in another test


@pytest.mark.parametrize("kind", ["inline", "processes"])
def test_the_same_rows_everywhere(tmp_path: Path, kind: str) -> None:
    """Inline dies of nothing here; the others lose a worker once over one job, processes always over another."""
    marker = tmp_path / "marker"
    if kind == "inline":
        marker.touch()
    jobs = [job("square", str(k), group=str(k % 3)) for k in range(7)]
    jobs += [job("refuse", "x"), job("raise", "zero"), job("die once", str(marker)), job("square", "1")]
    jobs += [job("die", "9")] if kind == "processes" else []
    rows = {row["case"]: row for row in _run(_pool(kind), jobs, tmp_path / "rows.jsonl")}
    assert {case: row["value"] for case, row in rows.items() if case.isdecimal() and case != "9"} == {
        str(k): k * k for k in range(7)
    }
    assert (tmp_path / "36.txt").read_bytes() == b"x" * 36
    assert rows["x"]["status"] == "refused"
    assert rows["x"]["error"].startswith("x is not a number (")  # and where in the user's code it was raised
    assert "work.py:" in rows["x"]["error"]
    assert (rows["zero"]["status"], rows["zero"]["error"]) == ("failed", "ZeroDivisionError: zero")
    assert rows[str(marker)]["value"] == len(str(marker))
    if kind == "processes":
        assert rows["9"]["status"] == "failed"
        assert "the worker died" in rows["9"]["error"]
    again = _run(Inline(working), [j for j in jobs if j.about["case"] != "9"], tmp_path / "rows.jsonl")
    assert [row["case"] for row in again] == ["zero"]  # what failed is tried again, nothing else


def test_an_interrupted_job_ends_the_sweep_and_is_made_again(tmp_path: Path) -> None:
    jobs = [job("square", "2"), job("interrupt", "3"), job("square", "4")]
    with pytest.raises(KeyboardInterrupt):
        _run(Inline(working), jobs, tmp_path / "rows.jsonl")
    with RowFile.open(tmp_path / "rows.jsonl", COLUMNS) as table:
        assert [(row["case"], row["status"]) for row in table.rows.values()] == [("2", "made"), ("3", "interrupted")]
        assert not table.is_made(jobs[1].key)


def test_a_worker_keeps_to_its_group() -> None:
    todo = [job("square", str(k), group=group) for k, group in enumerate("aabbcc")]
    assert _choose(todo, None, set()) == 0
    assert _choose(todo, None, {"a"}) == 2
    assert _choose(todo, "c", {"a", "b"}) == 4
    assert _choose(todo, "d", {"a", "b", "c"}) == 0


def test_a_changed_source_is_another_job(tmp_path: Path) -> None:
    package = tmp_path / "some_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit", encoding="utf-8")  # nothing is imported
    (package / "model.py").write_text("a = 1", encoding="utf-8")
    first = source_digest("some_package.model", str(tmp_path))
    (package / "model.py").write_text("a = 2", encoding="utf-8")
    assert "" != first != source_digest("some_package.model", str(tmp_path)) != ""
    assert source_digest("some_package.missing", str(tmp_path)) == ""
    assert source_digest("no_such_package.model") == ""
