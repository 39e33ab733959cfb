"""What focusing left out is decided at the end, never for the worse."""

import numpy as np
import pytest

from mallocgame.game import rules
from mallocgame.game.finish import finish
from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping
from mallocgame.workloads.make import find_programs


@pytest.mark.parametrize("family", ["chain", "residual", "training", "loop"])
def test_tensors_that_were_left_out_move_where_that_is_faster(family: str) -> None:
    ((program, hierarchy),) = find_programs(family=family, decisions=60)
    focused = program.focused(0.3)
    assert 0 < focused.num_decisions < program.num_decisions
    game = rules.make_game(focused, hierarchy)
    seconds, actions = rules.decode(game, np.full(game.num_decisions, 2))
    mapping = rules.mapping_of(game, actions)

    def judged(found: Mapping) -> float:
        assert validate(program, hierarchy, found) == []
        return simulate(program, hierarchy, found).total_seconds

    assert judged(finish(program, focused, hierarchy, mapping, 0.0)) == pytest.approx(seconds, rel=1e-12)
    finished = finish(program, focused, hierarchy, mapping, 5.0)
    assert judged(finished) < 0.999 * seconds
    small = {i for i, (a, b) in enumerate(zip(program.tensors, focused.tensors, strict=True)) if a.movable > b.movable}
    assert small & {residency.tensor for residency in finished.residencies}
