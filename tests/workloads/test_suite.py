"""The shipped suite: complete, small, reconciled, and the compiler's own mapping judged as the compiler sees it."""

import json
from functools import cache

import pytest

from mallocgame.errors import InputError
from mallocgame.judge.simulation import lower_bound, simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping
from mallocgame.workloads import suite
from mallocgame.workloads.find import load_trace
from mallocgame.workloads.models import MODELS
from mallocgame.workloads.trace import Trace
from mallocgame.workloads.xla.fidelity import Fidelity, compare
from tests.benchmarks.suite_totals import TABLE, totals

NAMES = suite.names()
TOTALS = json.loads(TABLE.read_text(encoding="utf-8"))


@cache
def load(name: str) -> Trace:
    return suite.load(name)


@cache
def fidelity(name: str) -> Fidelity:
    return compare(load(name))


def test_breadth() -> None:
    base = suite.names(base=True)
    assert len(base) == 84, "the tables in docs/ are about these"
    chips = {name: {suite.entry(n).chip for n in base if suite.entry(n).program == name} for name in MODELS}
    assert sum(len(found) == 3 for found in chips.values()) >= 16
    assert len(NAMES) >= 40


def test_index_and_files_agree() -> None:
    files = {file.name.removesuffix(".json.gz") for file in suite.FOLDER.glob("*.json.gz")}
    assert files == set(NAMES)
    for entry in suite.entries():
        assert entry.split == MODELS[entry.program].split
        assert bool(entry.refused) == (entry.name not in files)


def test_split_is_by_program_and_both_sides_see_every_chip() -> None:
    train, held = suite.names(split="train"), suite.names(split="eval")
    assert set(train) | set(held) == set(NAMES)
    assert not {suite.entry(n).program for n in train} & {suite.entry(n).program for n in held}
    for chip in suite.CHIPS:
        assert set(suite.names(split="eval", chip=chip)) & set(held)
        assert len(suite.names(split="train", chip=chip)) >= 10
    with pytest.raises(InputError, match="unknown split"):
        suite.names(split="test")


def test_unknown_and_refused_names_are_named() -> None:
    with pytest.raises(InputError, match="no shipped trace 'nothing'"):
        suite.load("nothing")
    for entry in suite.entries():
        if entry.refused:
            with pytest.raises(InputError, match="not shipped"):
                suite.load(entry.name)
    for name, hint in (
        ("lstm-v5", "did you mean lstm-v5e"),
        ("model.py:step", "mallocgame capture model.py:step makes"),
    ):
        with pytest.raises(InputError, match=hint):
            load_trace(name)


@pytest.mark.parametrize("name", NAMES)
def test_trace(name: str) -> None:
    trace = load(name)
    program, hierarchy, mapping = trace.program, trace.hierarchy, trace.mapping
    assert mapping is not None
    entry = suite.entry(name)
    assert (trace.name, trace.provenance["chip"]) == (name, entry.chip)
    assert trace.provenance.get("topology", "") == entry.topology
    assert suite.path(name).stat().st_size < 100_000
    assert validate(program, hierarchy, mapping) == []
    line = simulate(program, hierarchy, mapping)
    assert lower_bound(program, hierarchy) <= line.total_seconds
    moved = int((line.layer_bytes[:, 0] * program.trip_counts).sum() + line.link_bytes.sum())
    assert moved / hierarchy.layers[0].bytes_per_second <= line.total_seconds * (1 + 1e-9)
    accessed = sum(use.bytes for tensor in program.tensors for use in tensor.uses)
    assert trace.provenance["unreconciled_bytes"] <= 0.001 * accessed  # type: ignore[operator]
    assert not any(i.source.startswith("/") for i in program.instructions)
    fusions = [i for i in program.instructions if i.opcode == "fusion"]
    assert sum(bool(i.source) for i in fusions) > 0.8 * len(fusions)


@pytest.mark.parametrize("name", NAMES)
def test_judge_agrees_with_the_compiler_where_its_errors_are_repeated(name: str) -> None:
    found = fidelity(name)
    assert found.home_share_within_1_percent > 0.99
    assert found.step_share_within_1_percent > 0.99
    assert abs(found.total_error) < 0.01


@pytest.mark.parametrize("name", NAMES)
def test_a_trace_is_read_and_judged_as_ever(name: str) -> None:
    """To the last digit: ``python -m tests.benchmarks.suite_totals`` writes the table."""
    assert totals(load(name)) == TOTALS[name]


def test_decoders_and_recurrent_loops_are_where_the_compilers_figure_is_too_low() -> None:
    for name in ("lstm-v5e", "llama_decode-v5e"):
        assert fidelity(name).honest_error > 0.5


def test_hidden_compute_is_small() -> None:
    for name in NAMES:
        trace = load(name)
        hidden = float(trace.provenance["hidden_compute_seconds"])  # type: ignore[arg-type]
        assert hidden < 0.1 * simulate(trace.program, trace.hierarchy, Mapping()).total_seconds
