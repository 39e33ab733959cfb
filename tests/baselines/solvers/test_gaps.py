"""The linear program of gaps against every set of gaps; and what its orders are worth to annealing's start."""

import random
from collections.abc import Iterator
from itertools import pairwise, product

import numpy as np

from mallocgame.baselines.anneal.construction import prepared
from mallocgame.baselines.anneal.gaps import GapOrders, _Gaps
from mallocgame.baselines.bounds.linear import solve
from mallocgame.hierarchy import Hierarchy, Link, MemoryLayer
from mallocgame.program import Instruction, Program, Tensor, Use, UseKind
from mallocgame.solver import Incumbent, Problem

SIZE = 10


def _program(seed: int) -> Program:
    rng = random.Random(seed)
    tensors = []
    for i in range(5):
        steps = sorted(rng.sample(range(8), rng.randint(2, 4)))
        is_parameter = rng.random() < 0.4
        kinds = [rng.choice([UseKind.READ, UseKind.READ, UseKind.UPDATE, UseKind.DEFINE]) for _ in steps]
        if not is_parameter:
            kinds[0] = UseKind.DEFINE
        uses = tuple(Use(step=s, bytes=SIZE, kind=k) for s, k in zip(steps, kinds, strict=True))
        tensors.append(
            Tensor(name=f"t{i}", size_bytes=SIZE, uses=uses, is_parameter=is_parameter, is_output=rng.random() < 0.3)
        )
    steps = tuple(Instruction(name=f"i{i}", compute_seconds=1.0) for i in range(8))
    return Program(name=f"gaps{seed}", instructions=steps, tensors=tuple(tensors))


def _hierarchy(places: int) -> Hierarchy:
    layers = tuple(
        MemoryLayer(name=name, capacity_bytes=size, bytes_per_second=speed)
        for name, size, speed in (("host", 10**6, 1.0), ("hbm", SIZE * (places - 1), 1e6), ("vmem", SIZE, 1e9))
    )
    links = (
        Link(name="pcie", pairs=((0, 1), (0, 2)), bytes_per_second=1.0, shared_layer=0),
        Link(name="dma", pairs=((1, 2),), bytes_per_second=1e6, shared_layer=1),
    )
    return Hierarchy(name="host", layers=layers, links=links)


def _link_bytes(tensor: Tensor, held: tuple[bool, ...]) -> int:
    """Return what crosses the link where a tensor is held over these gaps, by walking its uses."""
    total, is_home, is_above = 0, tensor.is_parameter, False
    for i, use in enumerate(tensor.uses):
        if use.kind != UseKind.DEFINE and not is_above and i > 0:
            total += SIZE
        is_above, is_home = True, is_home and use.kind == UseKind.READ
        is_needed = tensor.uses[i + 1].kind != UseKind.DEFINE if i + 1 < len(tensor.uses) else tensor.is_output
        if i == len(held) or not held[i]:
            if is_needed and not is_home:
                total, is_home = total + SIZE, True
            is_above = False
    return total


def _choices(program: Program, places: int) -> Iterator[int]:
    """Yield the bytes of each way to hold gaps that fits."""
    gaps = [list(pairwise(use.step for use in tensor.uses)) for tensor in program.tensors]
    used = np.zeros(8, dtype=int)
    for tensor in program.tensors:
        used[[use.step for use in tensor.uses]] += 1
    for flags in product([False, True], repeat=sum(map(len, gaps))):
        rest, full, total = list(flags), used.copy(), 0
        for tensor, own in zip(program.tensors, gaps, strict=True):
            held, rest = tuple(rest[: len(own)]), rest[len(own) :]
            for (first, after), is_held in zip(own, held, strict=True):
                full[first + 1 : after] += is_held
            total += _link_bytes(tensor, held)
        if all(full[step] <= max(places, used[step]) for step in range(8)):
            yield total


def test_the_linear_program_finds_the_fewest_bytes() -> None:
    exact = 0
    for seed in range(12):
        program, places = _program(seed), 3
        gaps = _Gaps(program, _hierarchy(places), 1.0)
        solution = solve(gaps.linear)
        saved = -float(np.array(gaps.linear.cost) @ solution.columns) * gaps.room
        nothing = sum(_link_bytes(tensor, (False,) * (len(tensor.uses) - 1)) for tensor in program.tensors)
        fewest = min(_choices(program, places))
        assert nothing - saved <= fewest + 1e-6, f"seed {seed}"
        exact += nothing - saved >= fewest - 1e-6
    assert exact >= 10


def test_what_found_no_place_comes_earlier_in_the_next_order() -> None:
    program, hierarchy = _program(3), _hierarchy(3)
    search = Incumbent(Problem(program, hierarchy))
    pieces = prepared(search).pieces
    orders = GapOrders(search, pieces)
    plan, weights, first = orders.next()
    is_chosen = np.ones(len(pieces), dtype=np.bool_)
    is_chosen[first[-1:]] = False
    last = pieces[int(first[-1])].tensor
    others = [c for c in first.tolist() if pieces[c].tensor == last]
    is_chosen[others] = False
    orders.learn(plan, weights, 1.0, is_chosen)
    assert orders.best[3].any()
    orders.tried = 1000
    _, heavier, again = orders.next()
    assert heavier[orders.best[3]].min() > weights[orders.best[3]].max() * 0.5
    assert sorted(again.tolist()) == sorted(first.tolist())


def test_a_tensor_that_is_used_once_leaves_nothing_to_decide() -> None:
    once = Tensor(name="w", size_bytes=1, uses=(Use(step=0, bytes=1, kind=UseKind.READ),), is_parameter=True)
    program = Program(name="once", instructions=(Instruction(name="i", compute_seconds=1.0),), tensors=(once,))
    search = Incumbent(Problem(program, _hierarchy(2)))
    _, _, order = GapOrders(search, []).next()
    assert len(order) == 0
