"""Every sequence of legal actions of a small game: the best time that the game can reach."""

from mallocgame.game import rules
from mallocgame.game.rules import Game, State
from mallocgame.hierarchy import Hierarchy, Link, MemoryLayer


def best_play(game: Game) -> tuple[float, list[int]]:
    """Return the least judged seconds over all episodes, and actions that reach it."""
    return _best(game, rules.initial_state(game), [])


def _best(game: Game, state: State, taken: list[int]) -> tuple[float, list[int]]:
    if rules.is_terminal(game, state):
        return rules.total_seconds(state), taken
    legal = rules.legal_actions(game, state).nonzero()[0].tolist()
    return min(_best(game, rules.apply(game, state, action)[0], [*taken, action]) for action in legal)


def tiny_chip(capacity_bytes: int, *, num_layers: int = 2) -> Hierarchy:
    """A hierarchy for synthetic programs of few and small tensors; sizes come in multiples of 512 bytes."""
    layers = [MemoryLayer(name="home", capacity_bytes=10**9, bytes_per_second=1e9)]
    for n in range(1, num_layers):
        size, speed = capacity_bytes // n, 1e9 * 8.0**n
        layers += [MemoryLayer(name=f"near{n}", capacity_bytes=size, bytes_per_second=speed, alignment_bytes=512)]
    pairs = [(a, b) for a in range(num_layers) for b in range(a + 1, num_layers)]
    links = tuple(Link(name=f"{a}-{b}", pairs=((a, b),), bytes_per_second=1e9, shared_layer=a) for a, b in pairs)
    return Hierarchy(name="tiny", layers=tuple(layers), links=links)
