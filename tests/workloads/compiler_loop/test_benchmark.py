"""The benchmark's bookkeeping: what an interrupted run has left, and what the summary says."""

import io
import json
from pathlib import Path
from typing import Any

from tests.benchmarks.compiler_loop import append, best_known, read, reference_of
from tests.benchmarks.compiler_loop_table import ahead, report, share, write_page


def row(case: str, default: float, after: float, paper: float, known: float | None = None) -> dict[str, Any]:
    return {
        "case": case,
        "chip": case.rpartition("-")[2],
        "default_seconds": default,
        "judged_seconds": after,
        "goal_seconds": paper,
        "known_seconds": known,
        "default_xla_seconds": default,
        "xla_seconds": after,
        "default_cycles": None,
        "cycles": None,
        "realised_share": 0.5,
        "full_compile_seconds": 6.0,
        "seconds_per_evaluation": 1.0,
        "orders": 3,
        "flags": {},
    }


def test_share_is_of_the_best_mapping_known() -> None:
    half = row("a-v5e", 1.0, 0.9, 0.85, 0.8)
    assert ahead(half) == 1 - 0.8
    assert abs(share(half) - 0.5) < 1e-12
    assert share(row("b-v5e", 1.0, 1.0, 1.0)) == 1.0


def test_summary() -> None:
    rows = [
        row("a-v5e", 1.0, 0.9, 0.8),
        row("b-v5e", 1.0, 0.999, 0.99),
        row("c-v4", 1.0, 1.1, 0.5),
        {"case": "d-v4", "error": "no"},
    ]
    out = io.StringIO()
    report(rows, out)
    text = out.getvalue()
    assert "all: 3 cases, 1 worse in judged time" in text
    assert "headroom realised, median of the 2 with 3 % or more: 15 %" in text
    assert "v5e: 2 cases, 0 worse" in text
    assert "full compilation over evaluation, median of 3: 6.0 times" in text
    assert "|d-v4|no|" in text


def test_page_tells_how_far_large_programs_were_at_each_moment(tmp_path: Path) -> None:
    more = {"seconds": 300.0, "steps": 700, "evaluations": 4, "history": [(50.0, 0.95), (110.0, 0.9)]}
    small = {**row("b-v5e", 1.0, 0.8, 0.8), "seconds": 40.0, "steps": 60, "evaluations": 2, "history": []}
    write_page(tmp_path / "page.md", {"suite": [{**row("a-v5e", 1.0, 0.9, 0.8), **more}, small]})
    text = (tmp_path / "page.md").read_text()
    assert "|suite|2|0|17.9 %|2|75 %|" in text
    assert "|suite, 600 and more|1|0|11.1 %|1|50 %|" in text
    shares = [
        f"|suite, 600 and more, after {at} s|1|0|{gain}" for at, gain in ((60, "5.3 %|1|25"), (300, "11.1 %|1|50"))
    ]
    assert all(each in text for each in shares)
    assert "|a-v5e|700|300|1000000.0|900000.0|800000.0|50 %|4|" in text


def test_cut_off_row_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"case": "a"}) + '\n{"case": "b", "defau')
    assert [found["case"] for found in read(path)] == ["a"]
    assert read(tmp_path / "none.jsonl") == []
    append(path, {"case": "c"})
    append(path, {"case": "d"})
    assert [found["case"] for found in read(path)] == ["a", "c", "d"]


def test_best_known_is_the_least_valid(tmp_path: Path) -> None:
    path = tmp_path / "solvers.jsonl"
    found = [("a", 3.0, True), ("a", 1.0, False), ("a", 2.0, True), ("b", 5.0, True)]
    path.write_text("".join(json.dumps({"trace": t, "judged_seconds": s, "valid": v}) + "\n" for t, s, v in found))
    assert best_known(path) == {"a": 2.0, "b": 5.0}


def test_programs_of_the_zoo_are_compiled_for_the_chips_that_they_are_split_over() -> None:
    reference, target = reference_of("lstm", "v5e")
    assert (reference.module, reference.mesh, target) == ("mallocgame.workloads.models", "", "v5e")
    reference, target = reference_of("parallel:two_axes_step", "v4")
    assert (reference.name, reference.mesh, target) == ("two_axes_step", "data=4,model=2", "v4:2x2x1")
    reference, target = reference_of("idioms:sinkhorn", "v6e")
    assert (reference.name, reference.mesh, target) == ("sinkhorn", "", "v6e")
