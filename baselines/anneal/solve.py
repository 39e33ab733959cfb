"""The solver around the annealing kernel: arrays in, chains and temperatures, a valid mapping out."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.anneal import kernel
from mallocgame.baselines.anneal.assembly import Candidate
from mallocgame.baselines.anneal.construction import (
    Prepared,
    compile_on_top,
    constructed,
    nothing_chosen,
    prepared,
    rows_of,
    tiny_for,
    to_mapping,
)
from mallocgame.baselines.anneal.start import adopt, construct, finish_share
from mallocgame.baselines.anneal.state import ROW, Choice, Tables, copy_choice
from mallocgame.baselines.anneal.tables import empty_choice
from mallocgame.explanation.reachable import Reach
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import home_seconds
from mallocgame.mapping import Mapping
from mallocgame.program import Program
from mallocgame.solver import CLOSED, Incumbent, Limits, Problem, solver

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

GREEDY_SHARE = 0.25  # of what candidates leave of the limit: for a first choice with more than two layers
MOVES_PER_CALL = 2000  # between looks at the clock, fewer in long programs
LEAST_MOVES = 100
STEPS_PER_CALL = 16_000_000  # moves in a call times steps of the program
HIDDEN = 0.01  # weight of traffic that instructions hide now, beside traffic that they wait for
MANY_DECISIONS = 10_000  # beyond, it takes seconds to take a mapping over: stretches come from chains alone
MAX_OTHERS = 3  # mappings, or results of earlier chains, that moves take stretches over from


BEST, START, NOTHING = range(3)  # where a chain begins: at the best choice so far, at the start (which can be a trap)


class Chain(NamedTuple):
    """A stretch of annealing; temperatures are shares of the time with everything in layer 0."""

    hot: float
    cold: float
    until: float  # share of the limit at which it ends
    begins: int = BEST


HOT = (Chain(3e-3, 1e-5, 0.4), Chain(3e-3, 1e-5, 0.8, NOTHING), Chain(2e-4, 1e-6, 1.0))
COOL = (Chain(4e-4, 4e-6, 0.6), Chain(1e-4, 1e-6, 1.0))
SMALL = 4000  # decisions; in a program of more, a move gains a smaller share: temperatures fall with their number
FEW_MOVES = 50  # for each decision, in all: too few to come back from where a hot chain leads, and
ENOUGH_MOVES = 60  # enough to begin with nothing


def compile_all(problem: Problem, **_options: Any) -> None:
    """Compile what annealing, and the greedy passes before it, call."""
    _anneal(Incumbent(tiny_for(problem), Limits(steps=1)), HOT)
    compile_on_top(problem)


@solver(warm_up=compile_all)
def anneal(
    search: Incumbent,
    *,
    workers: int = 1,
    refine: bool = False,
    for_compiler: bool | Reach = False,
    others: Sequence[Mapping] = (),
) -> None:
    """Anneal from the incumbent until the time is over; ``MOVES_PER_CALL`` moves are a step, fewer in long programs.

    Half of the time cools slowly from hot, the rest in colder chains from the best choice so far.

    Args:
        workers: threads, each with its own seed and as many steps; every chain begins at the best choice of all (the
            kernels run in parallel).
        refine: stay near the start, with cooler chains only.
        for_compiler: only use what XLA can be brought to do (``candidates.as_compiler_does``), and what it was seen to.
        others: valid mappings that moves take stretches over from.
    """
    _anneal(search, COOL if refine else HOT, workers, for_compiler, others)


def _anneal(
    search: Incumbent,
    chains: tuple[Chain, ...],
    workers: int = 1,
    for_compiler: bool | Reach = False,
    others: Sequence[Mapping] = (),
) -> None:
    program, hierarchy = search.problem
    made = prepared(search, for_compiler=for_compiler)
    pieces, tables, candidate_seconds = made
    if tables is None or search.should_stop:
        return
    first = empty_choice(program, hierarchy, tables)
    adopt(program, tables, pieces, first, search.mapping or Mapping())
    unit = home_seconds(program, hierarchy) * min(1.0, SMALL / program.num_decisions)
    if hierarchy.num_layers > 2:  # layer 0 is far slower than what is there to win in the end
        first = nothing = _begin(search, made, first)
        unit = float(first.total[0])
    else:
        nothing = nothing_chosen(search.problem, tables)
    seeds = range(search.seed * 1_000_003, search.seed * 1_000_003 + 7919 * max(workers, 1), 7919)
    others = others[-MAX_OTHERS:] if program.num_decisions <= MANY_DECISIONS else ()
    saved = [_saved(search.problem, tables, pieces, mapping) for mapping in others]
    walkers = [_Walker(search, tables, first, seed, saved, candidate_seconds) for seed in seeds]
    try:
        with ThreadPoolExecutor(max(workers - 1, 1)) as pool:
            for chain in _affordable(search, walkers[0], chains):
                _begin_chain(walkers, first, nothing, chain)
                chain = chain._replace(hot=chain.hot * unit, cold=chain.cold * unit)
                lanes = [pool.submit(walker.walk, chain) for walker in walkers[1:]]
                try:
                    walkers[0].walk(chain, search.out_of_time)
                    for lane in lanes:
                        lane.result()
                except KeyboardInterrupt:  # or the pool would wait until the limit
                    search.stop()
                    raise
    finally:
        best = _results(walkers)[0][1]
        rows = best[: best[-1, 0]]
        if search.offer(to_mapping(program, pieces, rows)):
            search.met(row for walker in walkers for row in walker.history)


def _begin(search: Incumbent, made: Prepared, start: Choice) -> Choice:
    """Return the better of the start, with what a greedy pass adds, and of what is built from nothing."""
    assert made.tables is not None
    until = search.spent_share + GREEDY_SHARE * (1.0 - search.spent_share)
    filled = copy_choice(start)
    construct(search, made.tables, filled, until)
    built = constructed(search, made, until, first_share=until, is_patient=True)
    return min(built, filled, key=lambda choice: float(choice.total[0]))


def _saved(problem: Problem, tables: Tables, pieces: list[Candidate], mapping: Mapping) -> I64:
    """Return a mapping as a saved choice."""
    choice = empty_choice(*problem, tables)
    adopt(problem.program, tables, pieces, choice, mapping)
    return rows_of(choice)


def _affordable(search: Incumbent, walker: "_Walker", chains: tuple[Chain, ...]) -> tuple[Chain, ...]:
    """Return the chains that there are enough moves for: else none from nothing; in a large program a cold one."""
    num_decisions = search.program.num_decisions
    if search.hierarchy.num_layers > 2:
        return chains
    if search.limits.steps is not None:
        moves = float(search.limits.steps * walker.moves_per_call)
    else:
        begun, tried = search.spent_seconds, LEAST_MOVES
        choice, best = copy_choice(walker.choice), walker.best.copy()
        kernel.anneal(walker.tables, choice, best, 0.0, walker.others[0], tried, 0.0, 0)
        moves = tried * search.left_seconds / max(search.spent_seconds - begun, 1e-9)
    if num_decisions > SMALL and moves < FEW_MOVES * num_decisions:
        return (chains[-1]._replace(hot=chains[-1].cold),)
    if moves > ENOUGH_MOVES * num_decisions:
        return chains
    return tuple(chain._replace(begins=min(chain.begins, START)) for chain in chains)


class _Walker:
    """One choice that anneals, and the best that it has met."""

    def __init__(
        self,
        search: Incumbent,
        tables: Tables,
        choice: Choice,
        seed: int,
        others: list[I64],
        candidate_seconds: float,
    ) -> None:
        self.search, self.tables, self.seed, self.calls = search, tables, seed, 0
        self.candidate_seconds = candidate_seconds
        self.choice = copy_choice(choice)
        self.best = rows_of(choice)
        self.total = float(choice.total[0])
        self.earlier: list[tuple[float, I64]] = []  # what chains found before one began afresh
        self.others = others or [np.zeros((1, ROW), dtype=np.int64)]  # what moves take stretches over from
        self.history: list[tuple[float, float]] = []

    @property
    def spent_share(self) -> float:
        """Of the limit, less what it takes to make a mapping of the best choice.

        Where that is in steps, this walker's own, so that threads do not change the answer.
        """
        steps = self.search.limits.steps
        if steps is not None:
            return self.calls / max(steps, 1)
        return self.search.spent_share + finish_share(self.search, int(self.best[-1, 0]), self.candidate_seconds)

    @property
    def moves_per_call(self) -> int:
        """Moves between looks at the clock."""
        moves = STEPS_PER_CALL // max(len(self.tables.compute), 1)
        return max(min(moves, MOVES_PER_CALL), LEAST_MOVES)

    def walk(self, chain: Chain, out_of_time: Callable[[], bool] | None = None) -> None:
        """Anneal from the hot to the cold temperature until the chain's share of the limit is spent."""
        hot, cold, until, _ = chain
        begun, closed = self.spent_share, self.search.bound_seconds * (1.0 + CLOSED)
        while (spent := self.spent_share) < until and self.total > closed:
            heat = hot * (cold / hot) ** ((spent - begun) / max(until - begun, 1e-9))
            self.calls += 1
            low, seed = self.total, (self.seed + self.calls) % 2**32
            other = self.others[self.calls % len(self.others)]
            moves = self.moves_per_call
            self.total = kernel.anneal(self.tables, self.choice, self.best, low, other, moves, heat, seed)
            if self.total < low:
                self.history.append((self.search.spent_seconds, self.total))
            if self.search.is_stopped or (out_of_time is not None and out_of_time()):
                break
            if out_of_time is not None:
                self.search.count()


def _results(walkers: list[_Walker]) -> list[tuple[float, I64]]:
    """Return what all chains found, the best first."""
    found = [(walker.total, walker.best) for walker in walkers]
    found += [result for walker in walkers for result in walker.earlier]
    return sorted(found, key=lambda result: result[0])


def _begin_chain(walkers: list[_Walker], first: Choice, nothing: Choice, chain: Chain) -> None:
    """Let every walker go on from the best choice of all, or begin afresh."""
    results = _results(walkers)
    others = {total: best.copy() for total, best in results[1:] if total > results[0][0]}
    low, best = results[0][0], results[0][1].copy()
    for walker in walkers:
        if chain.begins != BEST:
            afresh = nothing if chain.begins == NOTHING else first
            walker.earlier.append((walker.total, walker.best.copy()))
            low = float(afresh.total[0])
            kernel.save(afresh, best)
        elif others:
            walker.others = list(others.values())[:MAX_OTHERS]
        walker.best[...], walker.total = best, low
        restore(*walker.search.problem, walker.tables, walker.choice, walker.best)


def restore(program: Program, hierarchy: Hierarchy, tables: Tables, choice: Choice, best: I64) -> None:
    """Make ``choice`` what ``best`` holds, recomputed from scratch."""
    nothing = empty_choice(program, hierarchy, tables, bucket_bits=int(choice.bucket_bits[0]))
    for target, source in zip(choice, nothing, strict=True):
        target[...] = source
    kernel.load(tables, choice, best)
