"""The generators keep their promises: pressure, structure, determinism, and a planted optimum that is one."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.errors import InputError
from mallocgame.hierarchy import preset
from mallocgame.judge.simulation import home_seconds, lower_bound, simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import HOME, Mapping, Residency, Transfer
from mallocgame.program import Program, UseKind
from mallocgame.workloads.synthetic.generate import FAMILIES, PLANTED, Recipe, generate

EVERY = (*FAMILIES, PLANTED)
SEEDS = st.integers(0, 10_000)


def most_live_bytes(program: Program) -> int:
    """Step by step, without the sweep that the generator uses."""
    return max(
        sum(
            tensor.size_bytes
            for tensor, spans in zip(program.tensors, program.live_steps, strict=True)
            if tensor.movable and any(start <= step < end for start, end in spans)
        )
        for step in range(program.num_steps)
    )


@pytest.mark.parametrize("family", EVERY)
def test_the_seed_decides(family: str) -> None:
    recipe = Recipe(family=family, decisions=60)
    assert generate(recipe, seed=5) == generate(recipe, seed=5)
    assert generate(recipe, seed=5).program.tensors != generate(recipe, seed=6).program.tensors


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, capacity=st.floats(0.2, 8.0), bandwidth=st.floats(0.2, 8.0), decisions=st.integers(10, 150))
def test_pressures_are_as_asked(family: str, seed: int, capacity: float, bandwidth: float, decisions: int) -> None:
    recipe = Recipe(family=family, decisions=decisions, capacity_pressure=capacity, bandwidth_pressure=bandwidth)
    instance = generate(recipe, seed=seed)
    program, layers = instance.program, instance.hierarchy.layers
    assert most_live_bytes(program) / layers[-1].capacity_bytes == pytest.approx(capacity, rel=0.01)
    moved = sum(use.bytes * program.instructions[use.step].trip_count for t in program.tensors for use in t.uses)
    compute = sum(i.compute_seconds * i.trip_count for i in program.instructions)
    assert moved / layers[0].bytes_per_second / compute == pytest.approx(bandwidth, rel=1e-9)
    assert 0.5 * decisions - 15 <= program.num_decisions <= 1.5 * decisions + 15


def test_structure_of_the_families() -> None:
    programs = {family: generate(Recipe(family=family, decisions=120), seed=1).program for family in FAMILIES}
    spans = {
        family: max(
            len({use.step for use in t.uses}) and t.uses[-1].step - t.uses[0].step
            for t in program.tensors
            if not t.is_parameter
        )
        / program.num_steps
        for family, program in programs.items()
    }
    assert spans["chain"] < 0.1 < 0.7 < spans["training"]  # the first activation lives until the last backward step
    loop = programs["loop"].loops[0]
    invariant = [
        t for t in programs["loop"].tensors if t.is_parameter and loop.start_step <= t.uses[0].step < loop.end_step
    ]
    assert len(invariant) > 20
    assert all({use.kind for use in t.uses} == {UseKind.READ} for t in invariant)
    assert any(use.kind == UseKind.UPDATE for t in programs["loop"].tensors for use in t.uses)
    reads = Counter(len(t.uses) for t in programs["residual"].tensors if t.name.startswith("sum"))
    assert reads.most_common(1)[0][0] == 3  # defined, read by the block and by its skip connection
    tables = [t for t in programs["embedding"].tensors if t.name.startswith("table")]
    assert all(use.bytes < 0.31 * t.size_bytes + 512 for t in tables for use in t.uses)


@settings(max_examples=40, deadline=None)
@given(
    seed=SEEDS,
    decisions=st.integers(4, 200),
    pressure=st.floats(0.3, 4.0),
    chip=st.sampled_from(["v4", "v5e", "host-v5e"]),
)
def test_planted_optimum_is_valid_and_equals_the_proved_bound(
    seed: int, decisions: int, pressure: float, chip: str
) -> None:
    recipe = Recipe(family=PLANTED, decisions=decisions, capacity_pressure=pressure)
    instance = generate(recipe, seed=seed, hierarchy=preset(chip))
    assert instance.optimum is not None
    assert validate(instance.program, instance.hierarchy, instance.optimum) == []
    judged = simulate(instance.program, instance.hierarchy, instance.optimum).total_seconds
    assert judged == instance.optimum_seconds
    assert judged == pytest.approx(lower_bound(instance.program, instance.hierarchy), rel=1e-12)
    assert judged <= home_seconds(instance.program, instance.hierarchy)


def without(mapping: Mapping, tensor: int) -> Mapping:
    """Return ``mapping`` with ``tensor`` back in layer 0."""
    kept = [i for i, r in enumerate(mapping.residencies) if r.tensor != tensor]
    place = {old: new for new, old in enumerate(kept)} | {HOME: HOME}
    transfers = [
        Transfer(
            tensor=x.tensor,
            source=place[x.source],
            target=place[x.target],
            start_after=x.start_after,
            done_before=x.done_before,
            size_bytes=x.size_bytes,
        )
        for x in mapping.transfers
        if x.tensor != tensor
    ]
    residencies: list[Residency] = [mapping.residencies[i] for i in kept]
    return Mapping(residencies=tuple(residencies), transfers=tuple(transfers))


def test_planted_is_tight() -> None:
    """Full occupancy at every step, and each tensor is needed: sending one home costs time."""
    instance = generate(Recipe(family=PLANTED, decisions=90, capacity_pressure=1.5), seed=11)
    assert instance.optimum is not None
    assert instance.optimum_seconds is not None
    timeline = simulate(instance.program, instance.hierarchy, instance.optimum)
    capacity = instance.hierarchy.layers[1].capacity_bytes
    assert (timeline.occupancy_bytes[:, 1] == capacity - capacity % (64 * 4096)).all()
    costs = [
        simulate(instance.program, instance.hierarchy, without(instance.optimum, tensor)).total_seconds
        for tensor in sorted({r.tensor for r in instance.optimum.residencies})
    ]
    assert min(costs) >= instance.optimum_seconds
    assert sum(cost > instance.optimum_seconds * (1 + 1e-6) for cost in costs) > 0.9 * len(costs)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"family": "chains"}, "unknown family 'chains', expected one of chain, residual"),
        ({"family": "chain", "capacity_pressure": 0.0}, "capacity_pressure must be positive"),
        ({"family": "chain", "bandwidth_pressure": float("nan")}, "bandwidth_pressure must be positive"),
        ({"family": "chain", "decisions": 1}, "need decisions >= 4"),
    ],
)
def test_bad_recipes_are_refused_in_one_line(fields: dict[str, float | str], message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        Recipe(**fields)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)
