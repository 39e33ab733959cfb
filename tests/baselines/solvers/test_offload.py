"""Three layers in earnest: copies between all of them beat two plain rules; what they return is valid."""

from dataclasses import replace

import pytest

from mallocgame.baselines.anneal import anneal
from mallocgame.baselines.offload import layerwise, least_recently_used
from mallocgame.baselines.placement.greedy import greedy
from mallocgame.errors import InputError
from mallocgame.hierarchy import preset
from mallocgame.judge.simulation import home_seconds
from mallocgame.judge.validation import validate
from mallocgame.mapping import HELD
from mallocgame.rehoming import rehome
from mallocgame.solver import Problem
from mallocgame.workloads.synthetic.draft import peak_live_bytes
from mallocgame.workloads.synthetic.generate import Recipe, generate


def _problem(family: str, share: float = 0.5) -> Problem:
    v5e, host = preset("v5e"), preset("host-v5e")
    program = generate(Recipe(family=family, decisions=60, capacity_pressure=4.0), seed=1, hierarchy=v5e).program
    room = int(share * peak_live_bytes(program))
    hbm = replace(host.layers[1], capacity_bytes=room)
    return rehome(program, v5e, replace(host, layers=(host.layers[0], hbm, host.layers[2])))


@pytest.mark.parametrize(("family", "share"), [("training", 0.5), ("transformer", 0.8)])
def test_annealing_is_valid_and_beats_the_rules(family: str, share: float) -> None:
    problem = _problem(family, share)
    home, rules = home_seconds(*problem), []
    for solve in (least_recently_used, layerwise, greedy):
        found = solve(*problem, seconds=5.0)
        assert validate(*problem, found.mapping) == []
        assert found.seconds <= home
        rules.append(found.seconds)
    result = anneal(*problem, seconds=60.0, steps=100)
    assert validate(*problem, result.mapping) == []
    assert result.seconds < min(rules)
    if family == "transformer":  # from HBM to VMEM pays there, not only from the host
        layer_of = [*(r.layer for r in result.mapping.residencies), 0]
        pairs = {frozenset((layer_of[x.source], layer_of[x.target])) for x in result.mapping.transfers}
        assert frozenset((1, 2)) in pairs


def test_a_weight_that_fits_stays_for_ever() -> None:
    problem = _problem("chain", share=10.0)
    found = greedy(*problem, seconds=5.0)
    for_ever = [r for r in found.mapping.residencies if (r.layer, r.start_step) == (1, HELD)]
    assert for_ever
    assert all(r.end_step == problem.program.num_steps for r in for_ever)


def test_the_rules_refuse_loops() -> None:
    with pytest.raises(InputError, match="no loops"):
        least_recently_used(*_problem("loop"), seconds=1.0)
