"""Random games for the property tests: programs with several uses in a step, and hierarchies with tight links."""

import math
from collections.abc import Sequence
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np

from mallocgame.game.rules import Game, State, initial_state, legal_actions, make_game, step
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import home_seconds
from mallocgame.program import Instruction, Loop, Program, Tensor, Use, UseKind
from tests.strategies import programs, small_hierarchy


@st.composite
def hierarchies(draw: st.DrawFn) -> Hierarchy:
    """Two or three layers with few bytes, few copies in flight, alignment and latency."""
    base = small_hierarchy(draw(st.integers(2, 12)), draw(st.integers(2, 3)))
    unit = draw(st.sampled_from((1, 1, 2, 3)))
    limit, latency = draw(st.sampled_from((1, 2, 40))), draw(st.sampled_from((0.0, 0.5)))
    return replace(
        base,
        layers=(base.layers[0], *(replace(layer, alignment_bytes=unit) for layer in base.layers[1:])),
        links=tuple(replace(link, max_in_flight=limit, latency_seconds=latency) for link in base.links),
    )


@st.composite
def games(draw: st.DrawFn, max_steps: int = 12, max_tensors: int = 5) -> Game:
    """A game whose program takes time."""
    memory = draw(hierarchies())
    program = draw(programs(max_steps=max_steps, max_tensors=max_tensors).filter(lambda p: home_seconds(p, memory) > 0))
    if draw(st.booleans()):
        program = replace(program, tensors=tuple(draw(_with_more_uses(tensor)) for tensor in program.tensors))
    return make_game(program, memory)


@st.composite
def _with_more_uses(draw: st.DrawFn, tensor: Tensor) -> Tensor:
    """Some steps read the tensor twice, once perhaps in layer 0."""
    uses: list[Use] = []
    for use in tensor.uses:
        if use.kind != UseKind.DEFINE and draw(st.integers(0, 3)) == 0:
            uses.append(Use(step=use.step, bytes=1, operand=1, home_only=draw(st.booleans())))
        uses.append(use)
    return replace(tensor, uses=tuple(uses))


def play(game: Game, seed: int, *, eager: float) -> tuple[State, list[int], list[float]]:
    """Play at random; with probability ``eager`` not Drop where something else is legal."""
    rng = np.random.default_rng(seed)
    state = initial_state(game)
    actions: list[int] = []
    rewards: list[float] = []
    for _ in range(game.num_decisions):
        legal = np.flatnonzero(legal_actions(game, state))
        actions.append(int(rng.choice(legal[1:] if len(legal) > 1 and rng.random() < eager else legal)))
        rewards.append(step(game, state, actions[-1]))
    return state, actions, rewards


def replay(game: Game, actions: Sequence[int]) -> State:
    """Return the state after ``actions``."""
    state = initial_state(game)
    for action in actions:
        step(game, state, action)
    return state


def loopy_game(seed: int) -> Game:
    """A game with several nested and consecutive loops and tensors with many uses, most of them in loops."""
    rng = np.random.default_rng(seed)
    num_steps = int(rng.integers(4, 20))
    loops: list[Loop] = []
    _nest(rng, 0, num_steps, 3, loops)
    steps = range(num_steps)
    trips = [math.prod(x.trip_count for x in loops if x.start_step <= t < x.end_step) for t in steps]
    instructions = tuple(
        Instruction(name=f"i{t}", compute_seconds=float(rng.integers(1, 8)) / 2, trip_count=trips[t]) for t in steps
    )
    tensors = tuple(_busy_tensor(rng, i, num_steps) for i in range(int(rng.integers(1, 5))))
    program = Program(name=f"loopy-{seed}", instructions=instructions, tensors=tensors, loops=tuple(loops))
    base = small_hierarchy(int(rng.integers(3, 14)), int(rng.integers(2, 4)))
    limit = int(rng.choice((1, 2, 40)))
    return make_game(program, replace(base, links=tuple(replace(x, max_in_flight=limit) for x in base.links)))


def _nest(rng: np.random.Generator, start: int, end: int, depth: int, loops: list[Loop]) -> None:
    """Cut [start, end) into pieces, make loops of some, and go on inside them."""
    while start < end and depth:
        stop = int(rng.integers(start, end)) + 1
        if rng.random() < 0.6:
            loops.append(Loop(start_step=start, end_step=stop, trip_count=int(rng.integers(1, 4))))
            _nest(rng, start, stop, depth - 1, loops)
        start = stop


def _busy_tensor(rng: np.random.Generator, index: int, num_steps: int) -> Tensor:
    is_parameter = bool(rng.random() < 0.5)
    chosen = np.flatnonzero(rng.random(num_steps) < rng.uniform(0.1, 0.7))
    steps = chosen.tolist() or [int(rng.integers(num_steps))]
    read_only = rng.random() < 0.4
    kinds = rng.choice(3, size=len(steps), p=(1.0, 0.0, 0.0) if read_only else (0.6, 0.2, 0.2)).tolist()
    if not is_parameter:
        kinds[0] = int(UseKind.DEFINE)
    home = rng.random(len(steps)) < rng.choice((0.0, 0.15))
    return Tensor(
        name=f"t{index}",
        size_bytes=int(rng.integers(1, 6)),
        uses=tuple(
            Use(step=t, bytes=int(rng.integers(0, 6)), kind=UseKind(k), home_only=bool(h))
            for t, k, h in zip(steps, kinds, home, strict=True)
        ),
        is_parameter=is_parameter,
        is_output=bool(rng.random() < 0.4),
        holdable=is_parameter and not any(kinds),
        hoistable=bool(rng.random() < 0.7),
    )
