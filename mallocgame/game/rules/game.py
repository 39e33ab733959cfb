"""The public functions of the rules: a game from a program, states, choices, and the mapping that they make."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mallocgame.collapse import Collapsed, collapse, is_straight
from mallocgame.errors import InputError
from mallocgame.game.rules.build import build_rules, build_start
from mallocgame.game.rules.state import HELD_OVER, Groups, Movables, Moves, Places, Rules, State
from mallocgame.game.rules.step import do_step, play, write_mask
from mallocgame.hierarchy import Hierarchy
from mallocgame.jit import kernel
from mallocgame.mapping import HELD, HOME, Mapping, Residency, Transfer, serving_layers
from mallocgame.program import Program

Bool = npt.NDArray[np.bool_]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

BETWEEN_STOPS = 1024  # decisions
NO_MASK, NO_INTS, NO_FLOATS = np.empty(0, dtype=np.bool_), np.empty(0, dtype=np.int64), np.empty(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Game:
    """A program on a hierarchy, as the rules' arrays. ``rules`` may be passed to Numba kernels.

    What is played is straight: a program with branches, fractions or replaceable copies is played as
    ``mallocgame.collapse`` shows it, and its mappings are the program's own; the seconds are then an estimate.
    """

    program: Program  # as it is played
    hierarchy: Hierarchy
    rules: Rules
    start: State  # the state before the first decision; never changed
    original: Program  # that the mappings are of
    view: Collapsed | None = None  # None: it is played as it is

    def original_step(self, step: int) -> int:
        """Return the original's step at which a played step begins."""
        return step if self.view is None else self.view.boundaries[step]

    @property
    def num_decisions(self) -> int:
        """D, the length of an episode."""
        return len(self.rules.decisions)

    @property
    def num_actions(self) -> int:
        """1 + 2 (L - 1)."""
        return 2 * self.hierarchy.num_layers - 1

    @property
    def home_seconds(self) -> float:
        """Seconds with everything in layer 0, the unit of rewards."""
        return float(self.rules.home_seconds[0])


def make_game(program: Program, hierarchy: Hierarchy) -> Game:
    """Return the game of a program, of one with branches as ``collapse`` shows it.

    Slow (milliseconds); ``initial_state`` is fast.

    Raises:
        InputError: the program takes no time at all, so that rewards have no unit, or a tensor is larger than layer 0.
    """
    home = hierarchy.layers[0]
    for index, tensor in enumerate(program.tensors):
        if tensor.size_bytes > home.capacity_bytes:
            where = f"{program.name}: tensor {index} ({tensor.name}), step {max(tensor.definition_step, 0)}"
            raise InputError(f"{where}: {tensor.size_bytes} bytes do not fit {home.name} ({home.capacity_bytes} bytes)")
    view = None if is_straight(program) else collapse(program)
    played = program if view is None else view.program
    rules = build_rules(played, hierarchy)
    if not rules.home_seconds[0] > 0:
        raise InputError(f"{program.name}: takes no time with everything in layer 0, nothing can be gained")
    start = build_start(rules)
    return Game(program=played, hierarchy=hierarchy, rules=rules, start=start, original=program, view=view)


def initial_state(game: Game) -> State:
    """Return a fresh state: nothing decided, everything in layer 0."""
    return copy_state(game, game.start)


def copy_state(game: Game, state: State) -> State:
    """Return an independent copy."""
    return State(game.rules.layout, state.ints.copy(), state.floats.copy())


def is_terminal(game: Game, state: State) -> bool:
    """Whether every group is decided."""
    return int(state.turn[0]) >= len(game.rules.decisions)


def legal_actions(game: Game, state: State) -> Bool:
    """Return bool[A], True for a legal action; Drop (0) always is. All False in a terminal state."""
    mask = np.empty(game.num_actions, dtype=np.bool_)
    _enter(
        game.rules.ints, game.rules.floats, state.ints, state.floats, -1, mask, NO_INTS, NO_INTS, NO_FLOATS, NO_FLOATS
    )
    return mask


def apply(game: Game, state: State, action: int) -> tuple[State, float]:
    """Return the next state and the reward; ``state`` is unchanged.

    Raises:
        InputError: the action is illegal, or the state terminal.
    """
    after = copy_state(game, state)
    return after, step(game, after, action)


def step(game: Game, state: State, action: int) -> float:
    """Take an action in place and return the reward: -(change of simulated seconds) / ``game.home_seconds``.

    Raises:
        InputError: as ``apply``; ``state`` is unchanged.
    """
    r = game.rules
    reward = _enter(r.ints, r.floats, state.ints, state.floats, action, NO_MASK, NO_INTS, NO_INTS, NO_FLOATS, NO_FLOATS)
    if reward != reward:
        what = "the game is over" if is_terminal(game, state) else f"action {action} is illegal"
        raise InputError(f"{game.program.name}: decision {int(state.turn[0])}: {what}")
    return float(reward)


def total_seconds(state: State) -> float:
    """Return the simulated seconds of the mapping so far; what is undecided is served from layer 0."""
    return float(state.total[0])


def decode(
    game: Game,
    wanted: I64,
    state: State | None = None,
    *,
    totals: F64 | None = None,
    limits: F64 | None = None,
    stop: Callable[[], bool] | None = None,
) -> tuple[float, I64]:
    """Play an episode to its end: each wanted action if it is legal, else the fallback.

    Fallback: the other action of the same layer (Copy for NoCopy and the reverse), else Drop.

    Args:
        wanted: int64[D].
        state: where to begin, unchanged; None: before the first decision.
        totals: float64[D], written from there on: simulated seconds after each decision.
        limits: float64[D], simulated seconds above which, after that decision, the episode is given up.
        stop: asked every ``BETWEEN_STOPS`` decisions; when it is true the episode is given up.

    Returns:
        The simulated seconds at the end (infinity if it was given up), and int64[D], the actions taken; those before
        ``state`` are ``wanted``'s.
    """
    state = game.start if state is None else state
    taken = wanted.copy()
    totals = np.empty(len(wanted)) if totals is None else totals
    limits = np.full(len(wanted), np.inf) if limits is None else limits
    r = game.rules
    ints, floats = state.ints.copy(), state.floats.copy()
    if not len(wanted):
        return total_seconds(state), taken
    played, until = State(r.layout, ints, floats), limits
    while True:
        if stop is not None:
            pause = int(played.turn[0]) + BETWEEN_STOPS - 1
            until = np.where(np.arange(len(wanted)) < pause, limits, -np.inf)
            until[-1] = limits[-1]
        seconds = _enter(r.ints, r.floats, ints, floats, -1, NO_MASK, wanted, taken, totals, until)
        last = int(played.turn[0]) - 1
        if seconds < np.inf or totals[last] > limits[last] or stop is None or stop():
            return float(seconds), taken


@kernel
def _enter(  # noqa: PLR0913 (a kernel takes arrays one by one)
    rule_ints: I64,
    rule_floats: F64,
    ints: I64,
    floats: F64,
    action: int,
    mask: Bool,
    wanted: I64,
    taken: I64,
    totals: F64,
    limits: F64,
) -> float:
    """Play ``wanted`` to the end, if there are any; else fill ``mask``, if it has room, and take ``action``.

    The one way from Python into the rules of a single game: each further one would be compiled with all of them. Plain
    arrays are what Numba tells the types of fastest.
    """
    r = Rules(rule_ints, rule_ints, rule_floats)
    s = State(r.layout, ints, floats)
    if wanted.shape[0] > 0:
        return play(r, s, wanted, taken, totals, limits)
    if mask.shape[0] > 0:
        write_mask(r, s, mask)
    return do_step(r, s, action)


def mapping_of(game: Game, actions: I64) -> Mapping:
    """Return the mapping that an episode of these actions, int64[D], ends with.

    Raises:
        InputError: one of them is illegal.
    """
    state = initial_state(game)
    for action in actions.tolist():
        step(game, state, action)
    return to_mapping(game, state)


def to_mapping(game: Game, state: State) -> Mapping:
    """Return the original's mapping so far; it is valid in every state.

    Where the game plays the program as it is, ``simulate`` gives ``total_seconds``.
    """
    rules = game.rules
    residencies: list[Residency] = []
    transfers: list[Transfer] = []
    index: dict[int, int] = {}  # place: its residency
    reloads: dict[int, int] = {}
    for place in np.flatnonzero(state.places[:, Places.LAYER]).tolist():
        row = state.places[place]
        held = row[Places.ENTRY] == HELD_OVER
        index[place] = len(residencies)
        residency = Residency(
            tensor=_tensor(rules, place),
            layer=int(row[Places.LAYER]),
            offset_bytes=int(row[Places.OFFSET]),
            start_step=HELD if held else int(row[Places.BEGIN]),
            end_step=int(row[Places.FINISH]),
        )
        residencies.append(residency)
        if held:
            reloads[place] = len(residencies)
            residencies.append(
                Residency(
                    tensor=residency.tensor,
                    layer=residency.layer,
                    offset_bytes=residency.offset_bytes,
                    start_step=int(state.copies[2 * place, Moves.ISSUE]),
                    end_step=game.program.num_steps,
                )
            )
    for copy in sorted(np.flatnonzero(state.copies[:, Moves.QUEUE] >= 0).tolist(), key=lambda x: _rank(state, x)):
        group, is_back = divmod(copy, 2)
        if is_back:
            source, target = index[int(state.served[group])], HOME
        else:
            origin = int(state.places[group, Places.SOURCE])
            source, target = index[origin] if origin >= 0 else HOME, reloads.get(group, index[group])
        tensor = _tensor(rules, group)
        transfers.append(
            Transfer(
                tensor=tensor,
                source=source,
                target=target,
                start_after=int(state.copies[copy, Moves.ISSUE]) - 1,
                done_before=int(state.copies[copy, Moves.DUE]),
                size_bytes=game.program.tensors[tensor].size_bytes,
            )
        )
    played = Mapping(residencies=tuple(residencies), transfers=tuple(transfers))
    return played if game.view is None else game.view.expand(played)


def _rank(state: State, copy: int) -> tuple[int, int, int]:
    """Return what copies are sorted by: ties in a queue go by a transfer's number (see ``goes_before``)."""
    away = int(state.copies[copy, Moves.QUEUE]) % 2
    return -away, 0 if away else int(state.copies[copy, Moves.DUE]), copy


def _tensor(rules: Rules, group: int) -> int:
    return int(rules.tensors[rules.groups[group, Groups.TENSOR], Movables.INDEX])


def actions_of(game: Game, mapping: Mapping) -> I64:
    """Return int64[D], wanted actions that approximate the original's ``mapping`` (for ``decode``).

    Exact placement is the rules'.

    A group that another layer than 0 serves asks for NoCopy where the same residency has served the tensor before,
    where a definition begins it, or where it is held; else for Copy.
    """
    rules, uses = game.rules, game.original.uses
    layers = serving_layers(game.original, mapping)
    fills = mapping.fill_boundaries
    rows: dict[int, list[int]] = {}
    for i, residency in enumerate(mapping.residencies):
        rows.setdefault(residency.tensor, []).append(i)
    actions = np.zeros(game.num_decisions, dtype=np.int64)
    previous: dict[int, int] = {}
    for decision, group in enumerate(rules.decisions.tolist()):
        tensor, begins = _tensor(rules, group), game.original_step(int(rules.groups[group, Groups.STEP]))
        first, last = int(uses.first[tensor]), int(uses.first[tensor + 1])
        use = first + int(np.searchsorted(uses.step[first:last], begins))
        step_, layer = int(uses.step[use]), int(layers[use])
        if layer == 0:
            continue
        place = next(
            i
            for i in rows[tensor]
            if mapping.residencies[i].layer == layer and fills[i] <= step_ < mapping.residencies[i].end_step
        )
        begun_here = not rules.groups[group, Groups.READS] or mapping.residencies[place].start_step == HELD
        stays = begun_here or previous.get(tensor * game.hierarchy.num_layers + layer) == place
        actions[decision] = 2 * layer if stays else 2 * layer - 1
        previous[tensor * game.hierarchy.num_layers + layer] = place
    return actions
