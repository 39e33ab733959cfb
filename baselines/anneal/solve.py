"""The solver around the annealing kernel: arrays in, chains and temperatures, a valid mapping out."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.anneal import kernel
from mallocgame.baselines.anneal.candidates import Candidate, as_compiler_does, assemble, candidates
from mallocgame.baselines.anneal.kernel import BORN, COPIED, HELD_OVER
from mallocgame.explanation.reachable import Reach
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import home_seconds
from mallocgame.mapping import HELD, HOME, Mapping
from mallocgame.program import Program
from mallocgame.solver import CLOSED, Incumbent, Limits, Problem, solver
from mallocgame.warm_up import tiny_problem

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

MAX_PREPARATION = 0.3  # of the limit: candidates that are not made by then are left out
MOVES_PER_CALL = 2000  # between looks at the clock
HIDDEN = 0.01  # weight of traffic that instructions hide now, beside traffic that they wait for
HOT = ((3e-3, 2e-5, 0.55), (3e-4, 2e-6, 0.8), (3e-4, 1e-6, 1.0))  # chains: from, to, when the chain ends
COOL = ((4e-4, 4e-6, 0.6), (1e-4, 1e-6, 1.0))  # temperatures are shares of the time with everything in layer 0


def _compile(_: Problem, **_options: Any) -> None:
    _anneal(Incumbent(tiny_problem(), Limits(steps=1)), HOT)


@solver(warm_up=_compile)
def anneal(search: Incumbent, *, workers: int = 1, refine: bool = False, for_compiler: bool | Reach = False) -> None:
    """Anneal from the incumbent until the time is over; ``MOVES_PER_CALL`` moves are a step.

    Half of the time cools slowly from hot, the rest in colder chains from the best choice so far.

    Args:
        workers: threads, each with its own seed and as many steps; every chain begins at the best choice of all (the
            kernels run in parallel).
        refine: stay near the start, with cooler chains only.
        for_compiler: only use what XLA can be brought to do (``candidates.as_compiler_does``), and what it was seen to.
    """
    _anneal(search, COOL if refine else HOT, workers, for_compiler)


def _anneal(
    search: Incumbent,
    chains: tuple[tuple[float, float, float], ...],
    workers: int = 1,
    for_compiler: bool | Reach = False,
) -> None:
    program, hierarchy = search.problem
    pieces = candidates(program, hierarchy, stop=lambda: search.spent_share > MAX_PREPARATION)
    if for_compiler:
        reach = for_compiler if isinstance(for_compiler, Reach) else Reach()
        pieces = list(as_compiler_does(program, hierarchy, pieces, reach))
    if not pieces or search.should_stop:
        return
    tables = make_tables(program, hierarchy, pieces)
    first = _empty_choice(program, hierarchy, tables)
    _adopt(program, tables, pieces, first, search.mapping or Mapping())
    first.total[0] = kernel.judge(tables, first, np.inf)
    walkers = [_Walker(search, tables, first, search.seed * 1_000_003 + 7919 * i) for i in range(max(workers, 1))]
    unit = home_seconds(program, hierarchy)
    try:
        with ThreadPoolExecutor(max(workers - 1, 1)) as pool:
            for hot, cold, until in chains:
                chain = (hot * unit, cold * unit, until)
                _begin_chain(program, hierarchy, walkers)
                others = [pool.submit(walker.walk, chain) for walker in walkers[1:]]
                try:
                    walkers[0].walk(chain, search.out_of_time)
                except KeyboardInterrupt:
                    search.stop()
                    raise
                for other in others:
                    other.result()
    finally:
        winner = min(walkers, key=lambda walker: walker.total)
        rows = winner.best[: winner.best[-1, 0]]
        if search.offer(assemble(program, [(pieces[c], int(i), int(b), int(o)) for c, i, b, o in rows])):
            search.met(row for walker in walkers for row in walker.history)


class _Walker:
    """One choice that anneals, and the best that it has met."""

    def __init__(self, search: Incumbent, tables: kernel.Tables, choice: kernel.Choice, seed: int) -> None:
        self.search, self.tables, self.seed, self.calls = search, tables, seed, 0
        self.choice = kernel.copy_choice(choice)
        self.best = np.zeros((len(tables.tensor) + 1, 4), dtype=np.int64)
        kernel.save(self.choice, self.best)
        self.total = float(choice.total[0])
        self.history: list[tuple[float, float]] = []

    @property
    def spent_share(self) -> float:
        """Of the limit; where that is in steps, this walker's own, so that threads do not change the answer."""
        steps = self.search.limits.steps
        return self.search.spent_share if steps is None else self.calls / max(steps, 1)

    def walk(self, chain: tuple[float, float, float], out_of_time: Callable[[], bool] | None = None) -> None:
        """Anneal from the hot to the cold temperature until the chain's share of the limit is spent."""
        hot, cold, until = chain
        begun, closed = self.spent_share, self.search.bound_seconds * (1.0 + CLOSED)
        while (spent := self.spent_share) < until and self.total > closed:
            heat = hot * (cold / hot) ** ((spent - begun) / max(until - begun, 1e-9))
            self.calls += 1
            low, seed = self.total, (self.seed + self.calls) % 2**32
            self.total = kernel.anneal(self.tables, self.choice, self.best, low, MOVES_PER_CALL, heat, heat, seed)
            if self.total < low:
                self.history.append((self.search.spent_seconds, self.total))
            if self.search.is_stopped or (out_of_time is not None and out_of_time()):
                break
            if out_of_time is not None:
                self.search.count()


def _begin_chain(program: Program, hierarchy: Hierarchy, walkers: list[_Walker]) -> None:
    """Let every walker go on from the best choice of all."""
    winner = min(walkers, key=lambda walker: walker.total)
    for walker in walkers:
        walker.best[...], walker.total = winner.best, winner.total
        _restore(program, hierarchy, walker.tables, walker.choice, walker.best)


def make_tables(program: Program, hierarchy: Hierarchy, pieces: list[Candidate]) -> kernel.Tables:
    """Return the kernel's arrays for ``pieces``."""
    columns = {
        name: np.array([getattr(c, name) for c in pieces], dtype=np.int64) for name in Candidate.__dataclass_fields__
    }
    layers = hierarchy.layers
    alignment = np.array([layer.alignment_bytes for layer in layers], dtype=np.int64)
    capacity = np.array([layer.capacity_bytes for layer in layers], dtype=np.int64) // alignment * alignment
    size = program.sizes_bytes[columns["tensor"]]
    aligned = alignment[columns["layer"]]
    link_of = np.array([0] + [hierarchy.link_index(0, k) for k in range(1, len(layers))], dtype=np.int64)
    link = link_of[columns["layer"]]
    speed = np.array([x.bytes_per_second for x in hierarchy.links])
    latency = np.array([x.latency_seconds for x in hierarchy.links])
    shared = [-1 if x.shared_layer is None else x.shared_layer for x in hierarchy.links]
    trips = [program.boundary_trip_count(b, b) for b in range(program.num_steps + 1)]
    uses = program.uses
    return kernel.Tables(
        **columns,
        size=(size + aligned - 1) // aligned * aligned,
        link=link,
        in_seconds=size / speed[link] + latency[link],
        use_step=np.array(uses.step),
        use_bytes=np.array(uses.bytes),
        compute=np.array(program.compute_seconds),
        trips=np.array(program.trip_counts),
        context=np.array(program.loop_context),
        context_trips=np.array(trips, dtype=np.int64),
        layer_speed=np.array([layer.bytes_per_second for layer in layers]),
        capacity=capacity,
        link_layer=np.array(shared, dtype=np.int64),
        max_in_flight=np.array([x.max_in_flight for x in hierarchy.links], dtype=np.int64),
        cumulative=np.cumsum(_weights(program, hierarchy, columns)),
    )


def _weights(program: Program, hierarchy: Hierarchy, columns: dict[str, I64]) -> F64:
    """Return float64[C], how often each candidate is tried: by the seconds of layer 0's traffic it could save.

    That is shared out among a tensor's many candidates (by the square root of their number).
    """
    uses, speeds = program.uses, np.array([layer.bytes_per_second for layer in hierarchy.layers])
    seconds = uses.bytes / speeds[0]
    memory = (program.fixed_bytes(hierarchy.num_layers) / speeds).sum(axis=1)
    np.add.at(memory, uses.step, seconds)
    waited = np.maximum(memory - program.compute_seconds, 0.0)[uses.step]
    saved = program.trip_counts[uses.step] * (np.minimum(seconds, waited) + HIDDEN * seconds)
    until = np.concatenate([[0.0], np.cumsum(saved)])
    could_save = until[columns["last_use"] + 1] - until[columns["first_use"]]
    rivals = np.bincount(columns["tensor"], minlength=len(program.tensors))[columns["tensor"]]
    weights: F64 = (could_save + 1e-9 * max(until[-1], 1e-300)) / np.sqrt(rivals)
    return weights


def _empty_choice(program: Program, hierarchy: Hierarchy, tables: kernel.Tables) -> kernel.Choice:
    num = len(tables.tensor)
    layer_bytes = program.fixed_bytes(hierarchy.num_layers)
    np.add.at(layer_bytes[:, 0], program.uses.step, program.uses.bytes)
    choice = kernel.Choice(
        is_chosen=np.zeros(num, dtype=np.bool_),
        chosen=np.zeros(num, dtype=np.int64),
        number=np.zeros(1, dtype=np.int64),
        issue=np.zeros(num, dtype=np.int64),
        back=np.zeros(num, dtype=np.int64),
        offset=np.zeros(num, dtype=np.int64),
        begin=np.zeros((num, 2), dtype=np.int64),
        until=np.zeros((num, 2), dtype=np.int64),
        layer_bytes=layer_bytes,
        elapsed=np.zeros(program.num_steps),
        idle=np.zeros((program.num_steps, len(hierarchy.links))),
        total=np.zeros(1),
    )
    for step in range(program.num_steps):
        kernel.step_time(tables, choice, step)
    return choice


def _restore(program: Program, hierarchy: Hierarchy, tables: kernel.Tables, choice: kernel.Choice, best: I64) -> None:
    """Make ``choice`` what ``best`` holds, recomputed from scratch."""
    for target, source in zip(choice, _empty_choice(program, hierarchy, tables), strict=True):
        target[...] = source
    for c, issue, back, offset in best[: best[-1, 0]]:
        choice.issue[c], choice.back[c], choice.offset[c] = issue, back, offset
        kernel.set_span(tables, choice, int(c))
        kernel.put(tables, choice, c)
    choice.total[0] = kernel.judge(tables, choice, np.inf)


def _adopt(
    program: Program, tables: kernel.Tables, pieces: list[Candidate], choice: kernel.Choice, mapping: Mapping
) -> None:
    """Choose the candidates that come nearest to ``mapping``'s residencies, at the same offsets and times."""
    lookup: dict[tuple[int, int, int, int], list[int]] = {}
    for index, piece in enumerate(pieces):
        lookup.setdefault((piece.tensor, piece.layer, piece.kind, piece.first_use), []).append(index)
    fills = mapping.fill_boundaries
    incoming = {x.target for x in mapping.transfers if x.target != HOME}
    found = np.empty(len(pieces), dtype=np.int64)
    for index, r in enumerate(mapping.residencies):
        low, high = program.uses.first[r.tensor], program.uses.first[r.tensor + 1]
        served = [u for u in range(low, high) if fills[index] <= program.uses.step[u] < r.end_step]
        if not served:
            continue
        kind = HELD_OVER if r.start_step == HELD else COPIED if index in incoming else BORN
        options = lookup.get((r.tensor, r.layer, kind, served[0]), [])
        options = [o for o in options if pieces[o].last_use <= served[-1]]
        if not options:
            continue
        c = max(options, key=lambda o: (pieces[o].last_use, -pieces[o].end))
        kernel.draw_times(tables, choice, c)
        if kind == COPIED and tables.context[r.start_step] == tables.context[tables.due[c]]:
            choice.issue[c] = min(max(r.start_step, int(tables.start[c])), int(tables.latest[c]))
        back = next((x.done_before for x in mapping.transfers if x.source == index and x.target == HOME), -1)
        if tables.back_issue[c] <= back <= tables.back_due[c]:
            choice.back[c] = back
        kernel.set_span(tables, choice, c)
        choice.offset[c] = r.offset_bytes
        number = int(choice.number[0])
        count = kernel.neighbours(
            tables.layer, choice.chosen, number, choice.begin, choice.until, choice.offset, c, found
        )
        ends = choice.offset[found[:count]] + tables.size[found[:count]]
        free = (ends <= r.offset_bytes) | (choice.offset[found[:count]] >= r.offset_bytes + tables.size[c])
        same = any(tables.tensor[o] == r.tensor for o in found[:count])
        if free.all() and not same and not choice.is_chosen[c]:
            kernel.put(tables, choice, c)
