"""Keep, offload, recompute against trying everything; the same problem as a program for the judge and all solvers."""

import itertools
import random

import pytest

from mallocgame.baselines.checkpointing.as_program import as_program, choices_of
from mallocgame.baselines.checkpointing.decide import decide, prune
from mallocgame.baselines.placement.greedy import greedy
from mallocgame.checkpointing import CheckpointProblem, CheckpointRegion, Choice, Node
from mallocgame.errors import InputError
from mallocgame.judge.validation import validate


def random_problem(seed: int) -> CheckpointProblem:
    """Return a problem small enough for exhaustion: up to seven named values in two or three regions."""
    draw = random.Random(seed)
    num_regions = draw.randint(2, 3)
    nodes: list[Node] = []
    for r in range(num_regions):
        first = len(nodes)
        for k in range(draw.randint(2, 4)):
            inputs = tuple(sorted(draw.sample(range(first, len(nodes)), min(k, draw.randint(0, 2)))))
            is_entry = k == 0 and draw.random() < 0.5
            is_named = is_entry or draw.random() < 0.6
            shared = "shared" if draw.random() < 0.2 and not is_entry else f"n{len(nodes)}"
            nodes.append(
                Node(
                    region=r,
                    seconds=0.0 if is_entry else draw.uniform(0.1, 2.0),
                    inputs=() if is_entry else inputs,
                    name=shared if is_named else "",
                    size_bytes=draw.randint(1, 9) if is_named else 0,
                    keep_seconds=draw.uniform(0.0, 0.2),
                    offload_seconds=0.01,
                    is_needed=draw.random() < 0.6,
                    is_entry=is_entry,
                )
            )
    regions = tuple(
        CheckpointRegion(
            name=str(r),
            peak_bytes=draw.randint(5, 12),
            stream=r if draw.random() < 0.5 else 0,
            is_loop=draw.random() < 0.5,
            forward_seconds=1.0,
            backward_seconds=2.0,
        )
        for r in range(num_regions)
    )
    return CheckpointProblem(
        nodes=tuple(nodes),
        regions=regions,
        base_seconds=5.0,
        floor_bytes=4,
        out_bytes_per_second=8.0,
        in_bytes_per_second=4.0,
        out_overlap=1.0,
        in_overlap=0.1,
    )


def options(problem: CheckpointProblem) -> itertools.product:  # type: ignore[type-arg]
    """Yield all choices that a policy can express."""
    names = sorted({node.name for node in problem.nodes if node.name})
    return itertools.product(Choice, repeat=len(names))


def allowed(problem: CheckpointProblem, assigned: tuple[Choice, ...]) -> list[Choice] | None:
    names = sorted({node.name for node in problem.nodes if node.name})
    by_name = dict(zip(names, assigned, strict=True))
    found = [by_name.get(node.name, Choice.RECOMPUTE) for node in problem.nodes]
    is_wrong = any(n.is_entry and c == Choice.KEEP for n, c in zip(problem.nodes, found, strict=True))
    return None if is_wrong else found


@pytest.mark.parametrize("seed", range(25))
def test_equals_exhaustion(seed: int) -> None:
    problem = random_problem(seed)
    budget = random.Random(seed + 100).randint(8, 30)
    tried = [choices for assigned in options(problem) if (choices := allowed(problem, assigned)) is not None]
    tried = [prune(problem, choices) for choices in tried]  # as JAX does: what nothing reads is not kept
    fitting = [problem.seconds(c) for c in tried if problem.peak_bytes(c) <= budget]
    found = decide(problem, budget, seconds=10)
    if not fitting:
        assert found is None
        return
    assert found is not None
    assert found.peak_bytes <= budget
    assert found.seconds == pytest.approx(min(fitting), rel=2e-4)
    assert found.bound_seconds <= min(fitting) + 1e-9
    assert found.gap <= 2e-4


def test_nothing_is_kept_that_saves_nothing() -> None:
    problem = random_problem(3)
    everything = [Choice.KEEP if n.name and not n.is_entry else Choice.RECOMPUTE for n in problem.nodes]
    kept = prune(problem, everything)
    assert problem.seconds(kept) <= problem.seconds(everything)
    for i, choice in enumerate(kept):
        if choice == Choice.KEEP:
            without = [*kept[:i], Choice.RECOMPUTE, *kept[i + 1 :]]
            assert problem.recomputed(without) != problem.recomputed(kept)


def chain(iterations: int) -> CheckpointProblem:
    """Return one loop with two values, the second made from the first."""
    rows = [Node(region=0, seconds=2.0, name="a", size_bytes=40, is_needed=True)]
    rows.append(Node(region=0, seconds=1.0, inputs=(0,), name="b", size_bytes=80, is_needed=True))
    region = CheckpointRegion(
        name="0.0",
        peak_bytes=50,
        stream=0,
        is_loop=True,
        iterations=iterations,
        forward_seconds=4.0,
        backward_seconds=8.0,
    )
    return CheckpointProblem(
        nodes=tuple(rows),
        regions=(region,),
        base_seconds=10.0,
        floor_bytes=0,
        out_bytes_per_second=20.0,
        in_bytes_per_second=20.0,
        out_overlap=1.0,
        in_overlap=1.0,
    )


def test_a_solver_of_the_house_decides_what_stays() -> None:
    problem = chain(4)
    choices = (Choice.KEEP, Choice.OFFLOAD)
    program, hierarchy = as_program(problem, choices, 110, hbm_bytes_per_second=1e6)
    assert len(program.tensors) == 8
    assert program.num_steps == 8
    assert hierarchy.layers[1].capacity_bytes == 60
    result = greedy(program, hierarchy)
    assert not validate(program, hierarchy, result.mapping)
    found = choices_of(problem, choices, program, result.mapping)
    assert Choice.RECOMPUTE not in found
    assert problem.peak_bytes(found) <= 110 or Choice.OFFLOAD in found


def test_no_room_is_an_error() -> None:
    with pytest.raises(InputError, match="nothing is kept or offloaded"):
        as_program(chain(2), (Choice.KEEP, Choice.KEEP), 50, hbm_bytes_per_second=1e6)


def test_nodes_out_of_order_are_refused() -> None:
    bad = Node(region=0, seconds=1.0, inputs=(0,))
    with pytest.raises(InputError, match="reads a later node"):
        CheckpointProblem(**{key: getattr(chain(1), key) for key in chain(1).__slots__} | {"nodes": (bad,)})  # type: ignore[attr-defined]
