"""Greedy passes: the best of several orders counts, what an order goes by, where three layers begin."""

from dataclasses import replace

import numpy as np
import pytest

from mallocgame.baselines.anneal import construction, gaps
from mallocgame.baselines.anneal.construction import constructed, mapping_of, nothing_chosen, on_top, prepared
from mallocgame.baselines.anneal.orders import FIRST, HIDDEN, ORDERS, density
from mallocgame.baselines.anneal.solve import anneal
from mallocgame.baselines.anneal.start import construct
from mallocgame.baselines.placement.greedy import greedy
from mallocgame.hierarchy import preset
from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping
from mallocgame.program import Instruction, Program, Tensor, Use
from mallocgame.rehoming import rehome
from mallocgame.solver import Incumbent, Problem
from mallocgame.workloads.synthetic.draft import peak_live_bytes
from mallocgame.workloads.synthetic.generate import Recipe, generate


def _problem(family: str, seed: int) -> Problem:
    v5e = preset("v5e")
    recipe = Recipe(family=family, decisions=80, capacity_pressure=3.0)
    return Problem(generate(recipe, seed=seed, hierarchy=v5e).program, v5e)


@pytest.mark.parametrize("family", ["training", "transformer", "loop"])
def test_the_best_order_counts(family: str) -> None:
    firsts = []
    for seed in range(3):
        search = Incumbent(_problem(family, seed))
        made = prepared(search)
        assert made.tables is not None
        alone = []
        for order in ORDERS:
            choice = nothing_chosen(search.problem, made.tables)
            construct(search, made.tables, choice, 1.0, order=order)
            alone.append(float(choice.total[0]))
        best = constructed(search, made, 1.0)
        mapping = mapping_of(search, made, best)
        assert validate(*search.problem, mapping) == []
        assert simulate(*search.problem, mapping).total_seconds == pytest.approx(float(best.total[0]), rel=1e-9)
        assert float(best.total[0]) <= min(alone)
        firsts.append(float(best.total[0]) / alone[0])
    assert min(firsts) < 1.0  # more than one order is worth it somewhere


def test_what_still_fits_is_added_and_the_rest_stays() -> None:
    problem = _problem("training", 1)
    search = Incumbent(problem)
    made = prepared(search)
    assert made.tables is not None
    half = mapping_of(search, made, constructed(search, made, 1.0))
    keep = len(half.residencies) // 2
    inside = {x.target for x in half.transfers} | {x.source for x in half.transfers}
    alone = [i for i in range(len(half.residencies)) if i not in inside][:keep]
    part = Mapping(residencies=tuple(half.residencies[i] for i in alone))
    before = simulate(*problem, part).total_seconds
    found = Incumbent(problem)
    on_top(found, part)
    assert found.mapping is not None
    assert found.seconds < before
    assert set(part.residencies) <= set(found.mapping.residencies)


def test_a_clipped_order_counts_what_a_step_waits_for() -> None:
    speed = preset("v5e").layers[0].bytes_per_second
    size = 2**20
    steps = (size / speed * 10, 0.0)  # the first hides what it reads, the second waits for it
    uses = (Use(step=0, bytes=size), Use(step=1, bytes=size))
    names = ("hidden", "waited")
    tensors = tuple(
        Tensor(name=name, size_bytes=size, is_parameter=True, uses=(use,))
        for name, use in zip(names, uses, strict=True)
    )
    program = Program(
        name="two",
        instructions=tuple(Instruction(name=f"i{i}", compute_seconds=s) for i, s in enumerate(steps)),
        tensors=tensors,
    )
    search = Incumbent(Problem(program, preset("v5e")))
    made = prepared(search)
    assert made.tables is not None
    plain = density(search.problem, made.tables, FIRST._replace(copy_price=0.0))
    clipped = density(search.problem, made.tables, FIRST._replace(copy_price=0.0, is_clipped=True))
    ratio = {program.tensors[p.tensor].name: clipped[c] / plain[c] for c, p in enumerate(made.pieces)}
    assert ratio["hidden"] == pytest.approx(HIDDEN)
    assert ratio["waited"] == pytest.approx(1.0 + HIDDEN)
    assert np.all(density(search.problem, made.tables, FIRST._replace(copy_price=1e6)) <= 0.0)


def test_with_three_layers_a_poor_start_holds_nothing_back() -> None:
    problem = _problem("training", 2)
    host = preset("host-v5e")
    hbm = replace(host.layers[1], capacity_bytes=int(0.5 * peak_live_bytes(problem.program)))
    asked = rehome(*problem, replace(host, layers=(host.layers[0], hbm, host.layers[2])))
    search = Incumbent(asked)
    made = prepared(search)
    assert made.tables is not None
    poor = nothing_chosen(asked, made.tables)
    construct(search, made.tables, poor, 1.0, order=ORDERS[-1])
    start = mapping_of(search, made, poor)
    alone = anneal(*asked, steps=20)
    begun = anneal(*asked, steps=20, start=start)
    assert begun.seconds <= 1.05 * alone.seconds


def test_an_interrupt_keeps_what_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    problem = _problem("training", 1)
    greedy.prepare(problem)
    monkeypatch.setattr(construction, "fill", stop)
    found = greedy(*problem, seconds=30.0)
    assert found.status == "interrupted"
    assert len(found.mapping.residencies) > 3


def test_a_limit_in_steps_gives_the_linear_program_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    whole = gaps.solve

    def solve(*arguments: object, seconds: float, **more: object) -> object:
        given.append(seconds)
        return whole(*arguments, seconds=seconds, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(gaps, "solve", solve)
    asked = rehome(*_problem("training", 2), preset("host-v5e"))
    greedy(*asked, steps=200)
    assert min(given) == gaps.UNLIMITED_SECONDS
    given.clear()
    greedy(*asked, seconds=20.0)
    assert given
    assert max(given) <= gaps.SHARE * 20.0
