"""The arrays of a game: one table from which Python's views, the buffers and what kernels see follow."""

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from mallocgame.game.rules import Game, copy_state
from mallocgame.game.rules.state import Rules, Size, State, rules_in
from mallocgame.game.rules.step import do_step
from mallocgame.jit import kernel
from tests.game.cases import games
from tests.paths import ROOT


@settings(deadline=None, max_examples=30)
@given(games())
def test_the_arrays_fill_the_buffers_without_overlap(game: Game) -> None:
    for views, first in ((game.rules, len(game.rules.layout)), (copy_state(game, game.start), 0)):
        views.ints[first:], views.floats[:] = 0, 0
        for name, field in type(views).fields.items():
            if field.slot is None:
                continue
            array = getattr(views, name)
            assert array.dtype == (np.float64 if field.buffer == "floats" else np.int64)
            assert not array.any(), name
            array[...] = 1
        assert (views.ints[first:] == 1).all()
        assert (views.floats == 1).all()


@settings(deadline=None, max_examples=10)
@given(games())
def test_copies_are_independent_and_pickles_keep_their_views(game: Game) -> None:
    state = copy_state(game, game.start)
    assert state.turn[0] == 0  # a view that is kept by the instance
    again = pickle.loads(pickle.dumps(state))
    again.turn[0] = 5
    assert (again.ints != state.ints).sum() == 1
    assert game.start.turn[0] == state.turn[0] == 0
    assert game.rules.num_decisions == game.num_decisions == game.rules.layout[Size.DECISIONS]
    with pytest.raises(AttributeError, match="State has no wishes"):
        _ = state.wishes


@kernel
def sizes_and_sums(r: Rules, s: State) -> tuple[int, int, int, int, float]:
    s.turn[0] += 1
    return r.num_steps, s.places.shape[0], s.copies.shape[1], r.layout.shape[0], r.groups.sum() + s.elapsed.sum()


def drop_all() -> Any:
    """Return the kernel that docs/rules.md shows."""
    text = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(code, __file__, "exec"), names)
    return names["drop_all"]


def test_kernels_see_the_same_arrays() -> None:
    dropped = drop_all()

    @settings(deadline=None, max_examples=20)
    @given(games())
    def see(game: Game) -> None:
        rules, state = game.rules, copy_state(game, game.start)
        assert sizes_and_sums(rules, state) == (
            game.program.num_steps,
            len(rules.groups),
            state.copies.shape[1],
            len(rules.layout),
            pytest.approx(rules.groups.sum() + state.elapsed.sum()),
        )
        assert state.turn[0] == 1
        state = copy_state(game, game.start)
        assert dropped(rules.ints, rules.floats, state.ints, state.floats) == pytest.approx(game.home_seconds)
        assert state.turn[0] == game.num_decisions
        twin = rules_in(rules.ints.copy(), rules.floats)
        assert np.isnan(do_step(twin, state, 0))  # a part, called from Python

    see()
