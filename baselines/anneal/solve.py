"""The solver around the annealing kernel: arrays in, chains and temperatures, a valid mapping out."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.anneal import kernel
from mallocgame.baselines.anneal.candidates import Candidate, assemble, boundary_contexts, candidates
from mallocgame.baselines.anneal.kernel import BORN, COPIED, HELD_OVER
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import home_seconds, lower_bound, simulate
from mallocgame.mapping import HELD, HOME, Mapping
from mallocgame.outcome import merged_history
from mallocgame.program import Program
from mallocgame.solver import Progress, SolveResult

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

MOVES_PER_CALL = 2000  # between looks at the clock
HIDDEN = 0.01  # weight of traffic that instructions hide now, beside traffic that they wait for
HOT = ((3e-3, 2e-5, 0.55), (3e-4, 2e-6, 0.8), (3e-4, 1e-6, 1.0))  # chains: from, to, when the chain ends
COOL = ((4e-4, 4e-6, 0.6), (1e-4, 1e-6, 1.0))  # temperatures are shares of the time with everything in layer 0


def anneal(
    program: Program,
    hierarchy: Hierarchy,
    *,
    seconds: float = 10.0,
    seed: int = 0,
    start: Mapping | None = None,
    progress: Progress | None = None,
    workers: int = 1,
    refine: bool = False,
) -> SolveResult:
    """Anneal from ``start`` (or from nothing) until the time is over; see ``mallocgame.solver.Solver``.

    Half of the time cools slowly from hot, the rest in colder chains from the best choice so far.

    Args:
        workers: threads, each with its own seed; every chain begins at the best choice of all (the kernels run in
            parallel).
        refine: stay near ``start``, with cooler chains only.
    """
    begun = time.monotonic()
    given = start if start is not None else Mapping()
    best_mapping, best_seconds = given, simulate(program, hierarchy, given).total_seconds
    history = [(0.0, best_seconds)]
    pieces = candidates(program, hierarchy) if seconds > 0 else []
    status = "feasible"
    if pieces:
        problem = make_problem(program, hierarchy, pieces)
        first = _empty_state(program, hierarchy, problem)
        _adopt(program, problem, pieces, first, given)
        first.total[0] = kernel.judge(problem, first, np.inf)
        walkers = [_Walker(problem, first, seed * 1_000_003 + 7919 * i) for i in range(max(workers, 1))]
        clock = _Clock(begun, seconds)
        unit = home_seconds(program, hierarchy)
        try:
            with ThreadPoolExecutor(max(workers - 1, 1)) as pool:
                for hot, cold, until in COOL if refine else HOT:
                    chain = (hot * unit, cold * unit, until * seconds)
                    _begin_chain(program, hierarchy, walkers)
                    others = [pool.submit(walker.walk, chain, clock) for walker in walkers[1:]]
                    try:
                        walkers[0].walk(chain, clock, progress)
                    except KeyboardInterrupt:
                        clock.stopped = True
                        raise
                    for other in others:
                        other.result()
        except KeyboardInterrupt:
            status = "interrupted"
        winner = min(walkers, key=lambda walker: walker.total)
        history += merged_history([walker.history for walker in walkers], history[0][1])
        rows = winner.best[: winner.best[-1, 0]]
        found = assemble(program, [(pieces[c], int(i), int(b), int(o)) for c, i, b, o in rows])
        judged = simulate(program, hierarchy, found).total_seconds
        if judged < best_seconds:
            best_mapping, best_seconds = found, judged
    bound = lower_bound(program, hierarchy)
    if best_seconds <= bound * (1 + 1e-12) and status == "feasible":
        status = "optimal"
    return SolveResult(
        mapping=best_mapping,
        seconds=best_seconds,
        lower_bound_seconds=bound,
        status=status,
        solve_seconds=time.monotonic() - begun,
        history=tuple(history),
    )


@dataclass(slots=True)
class _Clock:
    """The time limit that all walkers share."""

    begun: float
    seconds: float
    stopped: bool = False

    @property
    def spent(self) -> float:
        return time.monotonic() - self.begun


class _Walker:
    """One state that anneals, and the best choice it has met."""

    def __init__(self, problem: kernel.Problem, state: kernel.State, seed: int) -> None:
        self.problem, self.seed, self.calls = problem, seed, 0
        self.state = kernel.copy_state(state)
        self.best = np.zeros((len(problem.tensor) + 1, 4), dtype=np.int64)
        kernel.save(self.state, self.best)
        self.total = float(state.total[0])
        self.history: list[tuple[float, float]] = []

    def walk(self, chain: tuple[float, float, float], clock: _Clock, progress: Progress | None = None) -> None:
        """Anneal from the hot to the cold temperature until the chain's time is over."""
        hot, cold, until = chain
        low, chain_begun = self.total, clock.spent
        while (spent := clock.spent) < until and not clock.stopped:
            heat = hot * (cold / hot) ** ((spent - chain_begun) / max(until - chain_begun, 1e-9))
            self.calls += 1
            seed = (self.seed + self.calls) % 2**32
            self.total = kernel.anneal(
                self.problem, self.state, self.best, self.total, MOVES_PER_CALL, heat, heat, seed
            )
            if self.total < low:
                low = self.total
                self.history.append((clock.spent, low))
            if progress is not None:
                progress(min(spent / clock.seconds, 1.0))


def _begin_chain(program: Program, hierarchy: Hierarchy, walkers: list[_Walker]) -> None:
    """Let every walker go on from the best choice of all."""
    winner = min(walkers, key=lambda walker: walker.total)
    for walker in walkers:
        walker.best[...], walker.total = winner.best, winner.total
        _restore(program, hierarchy, walker.problem, walker.state, walker.best)


def make_problem(program: Program, hierarchy: Hierarchy, pieces: list[Candidate]) -> kernel.Problem:
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
    context = boundary_contexts(program)
    trips = [program.boundary_trip_count(b, b) for b in range(program.num_steps + 1)]
    uses = program.uses
    return kernel.Problem(
        **columns,
        size=(size + aligned - 1) // aligned * aligned,
        link=link,
        in_seconds=size / speed[link] + latency[link],
        use_step=np.array(uses.step),
        use_bytes=np.array(uses.bytes),
        compute=np.array(program.compute_seconds),
        trips=np.array(program.trip_counts),
        context=context,
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


def _empty_state(program: Program, hierarchy: Hierarchy, problem: kernel.Problem) -> kernel.State:
    num = len(problem.tensor)
    layer_bytes = program.fixed_bytes(hierarchy.num_layers)
    np.add.at(layer_bytes[:, 0], program.uses.step, program.uses.bytes)
    state = kernel.State(
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
        kernel.step_time(problem, state, step)
    return state


def _restore(program: Program, hierarchy: Hierarchy, problem: kernel.Problem, state: kernel.State, best: I64) -> None:
    """Make ``state`` what ``best`` holds, recomputed from scratch."""
    for target, source in zip(state, _empty_state(program, hierarchy, problem), strict=True):
        target[...] = source
    for c, issue, back, offset in best[: best[-1, 0]]:
        state.issue[c], state.back[c], state.offset[c] = issue, back, offset
        kernel.set_span(problem, state, int(c))
        kernel.put(problem, state, c)
    state.total[0] = kernel.judge(problem, state, np.inf)


def _adopt(
    program: Program, problem: kernel.Problem, pieces: list[Candidate], state: kernel.State, mapping: Mapping
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
        kernel.draw_times(problem, state, c)
        if kind == COPIED and problem.context[r.start_step] == problem.context[problem.due[c]]:
            state.issue[c] = min(max(r.start_step, int(problem.start[c])), int(problem.latest[c]))
        back = next((x.done_before for x in mapping.transfers if x.source == index and x.target == HOME), -1)
        if problem.back_issue[c] <= back <= problem.back_due[c]:
            state.back[c] = back
        kernel.set_span(problem, state, c)
        state.offset[c] = r.offset_bytes
        number = int(state.number[0])
        count = kernel.neighbours(problem.layer, state.chosen, number, state.begin, state.until, state.offset, c, found)
        ends = state.offset[found[:count]] + problem.size[found[:count]]
        free = (ends <= r.offset_bytes) | (state.offset[found[:count]] >= r.offset_bytes + problem.size[c])
        same = any(problem.tensor[o] == r.tensor for o in found[:count])
        if free.all() and not same and not state.is_chosen[c]:
            kernel.put(problem, state, c)
