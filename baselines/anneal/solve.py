"""The solver around the annealing kernel: arrays in, chains and temperatures, a valid mapping out."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mallocgame.baselines import native
from mallocgame.baselines.anneal import kernel
from mallocgame.baselines.anneal.assembly import Candidate, Placed, assemble
from mallocgame.baselines.anneal.candidates import as_compiler_does, candidates
from mallocgame.baselines.anneal.gaps import GapOrders
from mallocgame.baselines.anneal.start import add, adopt, construct, finish_share, pace
from mallocgame.baselines.anneal.state import ROW, Choice, Tables, copy_choice
from mallocgame.baselines.anneal.tables import empty_choice, make_tables
from mallocgame.baselines.anneal.timing import judge_all
from mallocgame.explanation.reachable import Reach
from mallocgame.hierarchy import Hierarchy, preset
from mallocgame.judge.simulation import home_seconds
from mallocgame.mapping import Mapping
from mallocgame.program import Program
from mallocgame.solver import CLOSED, Incumbent, Limits, Problem, solver
from mallocgame.warm_up import tiny_problem

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

MAX_PREPARATION = 0.3  # of the limit: candidates that are not made by then are left out
GREEDY_SHARE = 0.25  # of the limit, at most: for a first choice with more than two layers
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
    """Compile what annealing, and the greedy pass before it, call."""
    tiny = tiny_problem()
    if problem.hierarchy.num_layers > 2:
        native.start()
        tiny = Problem(tiny.program, preset("host-v5e"))
    _anneal(Incumbent(tiny, Limits(steps=1)), HOT)
    on_top(Incumbent(tiny), Mapping())
    tables = prepared(Incumbent(tiny)).tables
    if tables is not None:  # for a large start
        none = np.zeros(0, dtype=np.int64)
        kernel.adopt_all(tables, empty_choice(*tiny, tables), np.zeros((0, ROW), dtype=np.int64))
        kernel.is_apart(tables, empty_choice(*tiny, tables), none, none)


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
    if not pieces or tables is None or search.should_stop:
        return
    first = empty_choice(program, hierarchy, tables)
    adopt(program, tables, pieces, first, search.mapping or Mapping())
    unit = home_seconds(program, hierarchy) * min(1.0, SMALL / program.num_decisions)
    if hierarchy.num_layers > 2:  # layer 0 is far slower than what is there to win in the end
        first = nothing = _constructed(search, made, first)
        unit = float(first.total[0])
    else:
        nothing = empty_choice(program, hierarchy, tables)
        nothing.total[0] = judge_all(tables, nothing)
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


def _constructed(search: Incumbent, made: "Prepared", start: Choice) -> Choice:
    """Return the best of what a greedy pass makes of the start, alone and after what is worth holding."""
    assert made.tables is not None
    best, orders = copy_choice(start), GapOrders(search, made.pieces)
    construct(search, made.tables, best, GREEDY_SHARE)
    while not orders.is_over and search.spent_share < GREEDY_SHARE and not search.should_stop:
        plan, weights, order = orders.next()
        choice = copy_choice(start)
        add(search, made.tables, choice, order)
        is_held = choice.is_chosen.copy()
        construct(search, made.tables, choice, 1.0, candidate_seconds=made.candidate_seconds)
        search.count()
        orders.learn(plan, weights, float(choice.total[0]), is_held)
        best = min(best, choice, key=lambda choice: float(choice.total[0]))
    return best


class Prepared(NamedTuple):
    """A problem's candidates, their arrays (None: there are no candidates), and the seconds that one took to make."""

    pieces: list[Candidate]
    tables: Tables | None
    candidate_seconds: float = 0.0


_latest: list[tuple[Problem, bool, Prepared]] = []  # of the latest problem; lanes share it
_preparing = threading.Lock()


def prepared(search: Incumbent, *, for_compiler: bool | Reach = False) -> Prepared:
    """Return the candidates of a problem and their arrays, made once; without those that there was no time for."""
    with _preparing:
        for (program, hierarchy), is_for_compiler, made in _latest:
            if program is search.program and hierarchy is search.hierarchy and is_for_compiler == for_compiler:
                return made
        cut: list[bool] = []

        def stop() -> bool:
            if search.spent_share > MAX_PREPARATION:
                cut.append(True)
            return bool(cut)

        begun = search.spent_seconds
        pieces = candidates(search.program, search.hierarchy, stop=stop)
        candidate_seconds = pace(search.spent_seconds - begun, len(pieces))
        if for_compiler:
            reach = for_compiler if isinstance(for_compiler, Reach) else Reach()
            pieces = list(as_compiler_does(search.program, search.hierarchy, pieces, reach))
        if not pieces or search.should_stop:
            return Prepared(pieces, None)
        made = Prepared(pieces, make_tables(search.program, search.hierarchy, pieces), candidate_seconds)
        if not cut and isinstance(for_compiler, bool):
            _latest[:] = [(search.problem, for_compiler, made)]
        return made


def _saved(problem: Problem, tables: Tables, pieces: list[Candidate], mapping: Mapping) -> I64:
    """Return a mapping as a saved choice."""
    choice = empty_choice(*problem, tables)
    adopt(problem.program, tables, pieces, choice, mapping)
    return _rows_of(choice)


def _rows_of(choice: Choice) -> I64:
    """Return what is chosen as ``kernel.save`` writes it."""
    rows = np.zeros((len(choice.is_chosen) + 1, ROW), dtype=np.int64)
    kernel.save(choice, rows)
    return rows


def to_mapping(program: Program, pieces: list[Candidate], rows: I64) -> Mapping:
    """Return the mapping of a saved choice."""
    return assemble(program, [Placed(pieces[c], *times) for c, *times in rows.tolist()])


@solver(warm_up=compile_all, is_constructive=True)
def dense(search: Incumbent) -> None:
    """Add residencies between all layers by seconds saved per byte and step, those that the judge agrees to."""
    on_top(search, Mapping())


def on_top(search: Incumbent, mapping: Mapping) -> None:
    """Offer ``mapping`` with what a greedy pass adds, in slices where that fits and the whole does not.

    Middle layers get something only where there is nothing.
    """
    program, hierarchy = search.problem
    search.offer(mapping)
    pieces, tables, candidate_seconds = prepared(search)
    if not pieces or tables is None or search.should_stop:
        return
    choice = empty_choice(program, hierarchy, tables)
    adopt(program, tables, pieces, choice, mapping)
    layer = 2 if mapping.residencies and hierarchy.num_layers > 2 else 1
    construct(search, tables, choice, 1.0, candidate_seconds=candidate_seconds, least_layer=layer)
    best = _rows_of(choice)
    search.offer(to_mapping(program, pieces, best[: best[-1, 0]]))


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
        self.best = _rows_of(choice)
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
