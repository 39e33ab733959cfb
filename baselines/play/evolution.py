"""Evolutionary search over the game: a priority per tensor and a wanted action per use, decoded by the rules.

Decoding has two steps. Tensors in the order of their priorities claim space, use by use, in a table of free bytes per
step; a use that finds none is dropped. What is left is played by the rules (``decode``), which choose addresses and
copy times and replace what is illegal. Every genome is therefore a valid mapping, and its fitness is the judge's time.

Islands evolve apart for an epoch and then hand their best genome to the next one in a ring. Which process runs an
island makes no difference, so a seed gives the same answer for any number of workers.
"""

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from typing import Any

import numpy as np
import numpy.typing as npt

from mallocgame.game import rules
from mallocgame.game.rules import Game, actions_of, decode, make_game
from mallocgame.game.rules.state import Groups, Movables
from mallocgame.hierarchy import Hierarchy
from mallocgame.jit import jit
from mallocgame.judge.simulation import home_seconds
from mallocgame.mapping import Mapping
from mallocgame.program import Program
from mallocgame.solver import Incumbent, Problem, solver
from mallocgame.system import num_cores
from mallocgame.warm_up import tiny_problem

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Generator = np.random.Generator

ISLANDS = 4
POPULATION = 24  # genomes an island
EPOCH = 8  # generations between migrations
PATIENCE = 40  # epochs without a better mapping after which the search ends
SAME = 1e-9  # relative difference below which the rules' and the judge's sums may differ by rounding
ELITE = 2  # genomes that survive as they are
TRIVIAL = 1e-3  # share of the traffic whose tensors stay in layer 0
LOOK_SECONDS = 0.1  # between looks at the clock while workers work
PAYS_FOR_PROCESSES = 5.0  # seconds of search below which starting processes takes longer than it saves


@dataclass(frozen=True, slots=True, kw_only=True)
class Genomes:
    """A population: row i is one genome; rows are sorted by ``seconds``."""

    priority: F64  # float64[P, M], M movable tensors
    action: I64  # int64[P, D]
    seconds: F64  # float64[P], the judged time of the decoded mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """A game and what decoding and mutation look at, per decision (D) and movable tensor (M)."""

    game: Game
    tensor: I64  # int64[D], row of the tensor
    step: I64  # int64[D]
    reads: I64  # int64[D], 0 where the step only defines the tensor, so that a stay begins there
    by_tensor: I64  # int64[D], decisions ordered by tensor, then step
    first: I64  # int64[M + 1], tensor m's are by_tensor[first[m]:first[m + 1]]
    size_bytes: I64  # int64[L, M], rounded up to the layer's alignment
    capacity_bytes: I64  # int64[L], rounded up: the last tensor need not fill its last unit
    density: F64  # float64[M], bytes moved per byte and step of life, scaled to a maximum of 1

    @property
    def num_tensors(self) -> int:
        """M."""
        return len(self.first) - 1


def _compile(_: Problem, **_options: Any) -> None:
    problem = encode(*tiny_problem())
    evolve_island(problem, None, np.random.default_rng(0), lambda: False, actions_of(problem.game, Mapping()))


@solver(warm_up=_compile)
def evolution(search: Incumbent, *, workers: int | None = None) -> None:
    """Evolve mappings until the time is over or nothing improves; an epoch of all islands is a step.

    Args:
        workers: processes; None: one per core, and none but this one for short runs. They are spawned, so a script
            that calls this needs ``if __name__ == "__main__":``.
    """
    program, hierarchy = search.problem
    if not home_seconds(program, hierarchy) > 0:
        return
    problem = encode(program, hierarchy)
    if problem.game.num_decisions == 0:
        return
    if workers is None:
        workers = min(num_cores(), ISLANDS) if search.left_seconds >= PAYS_FOR_PROCESSES else 1
    deadline = time.monotonic() + search.left_seconds  # one clock for all processes, which nobody sets
    rngs = [np.random.default_rng([search.seed, island]) for island in range(ISLANDS)]
    with _runner(search, problem, min(workers, ISLANDS)) as run:
        _evolve(search, problem, run, rngs, deadline)


Task = tuple[Genomes | None, Generator, float, I64 | None]
Runner = Callable[[list[Task]], list[tuple[Genomes, Generator]]]


def _evolve(search: Incumbent, problem: Encoding, run: Runner, rngs: list[Generator], deadline: float) -> None:
    start = search.mapping
    wanted = actions_of(problem.game, start) if start is not None and start.residencies else None
    islands: list[Genomes | None] = [None] * ISLANDS
    stale = 0
    while stale < PATIENCE and not search.out_of_time():
        results = run([(island, rng, deadline, wanted) for island, rng in zip(islands, rngs, strict=True)])
        if not results:
            break
        grown, rngs = [genomes for genomes, _ in results], [rng for _, rng in results]
        best = min(grown, key=lambda genomes: float(genomes.seconds[0]))
        stale += 1
        if best.seconds[0] < search.seconds * (1.0 - SAME):
            search.offer(mapping_of(problem, best.priority[0], best.action[0]))
            stale = 0
        search.count()
        islands = [_with_guest(home, grown[i - 1]) for i, home in enumerate(grown)]


def encode(program: Program, hierarchy: Hierarchy) -> Encoding:
    """Return the arrays around the game of ``program``, its trivial tensors left in layer 0.

    Raises:
        InputError: the program takes no time.
    """
    game = make_game(program.focused(TRIVIAL), hierarchy)
    rules, uses = game.rules, program.uses
    tensor, step_ = rules.groups[rules.decisions, Groups.TENSOR], rules.groups[rules.decisions, Groups.STEP]
    by_tensor = np.lexsort((step_, tensor))
    first = np.searchsorted(tensor[by_tensor], np.arange(len(rules.tensors) + 1))
    index = rules.tensors[:, Movables.INDEX]
    size = program.sizes_bytes[index]
    unit = np.array([layer.alignment_bytes for layer in hierarchy.layers], dtype=np.int64)[:, None]
    capacity = np.array([layer.capacity_bytes for layer in hierarchy.layers], dtype=np.int64)
    moved = np.zeros(len(program.tensors))
    np.add.at(moved, uses.tensor, uses.bytes * program.trip_counts[uses.step])
    life = [tensor.uses[-1].step - tensor.uses[0].step + 2 for tensor in (program.tensors[i] for i in index.tolist())]
    density = moved[index] / (size * np.array(life))
    return Encoding(
        game=game,
        tensor=tensor,
        step=step_,
        reads=rules.groups[rules.decisions, Groups.READS],
        by_tensor=by_tensor,
        first=first,
        size_bytes=(size + unit - 1) // unit * unit,
        capacity_bytes=(capacity + unit[:, 0] - 1) // unit[:, 0] * unit[:, 0],
        density=density / max(float(density.max(initial=0.0)), 1e-300),
    )


@jit
def claim(  # noqa: PLR0913 (a kernel takes arrays one by one)
    order: I64,
    action: I64,
    by_tensor: I64,
    first: I64,
    step_of: I64,
    reads: I64,
    size: I64,
    free: I64,
    wanted: I64,
) -> None:
    """Let tensors claim space in ``order``; a use that finds none is dropped.

    A use claims its own step, and one that stays where the previous use was the steps between as well. That is the
    least that the rules need, so actions that are all legal are left as they are, whatever the order.

    Args:
        order: int64[M], tensors, the first claims first.
        action: int64[D], what the genome wants.
        by_tensor: int64[D] and
        first: int64[M + 1], see ``Encoding``.
        step_of: int64[D], the step of each decision.
        reads: int64[D], see ``Encoding``.
        size: int64[L, M], bytes.
        free: int64[L, T], bytes left at each step; updated.
        wanted: int64[D], written.
    """
    for m in order:
        previous_layer = -1
        previous_step = 0
        for i in range(first[m], first[m + 1]):
            d = by_tensor[i]
            a = action[d]
            layer = (a + 1) // 2
            step = step_of[d]
            if layer > 0:
                begin = step
                if layer == previous_layer and a % 2 == 0 and reads[d]:
                    begin = previous_step + 1
                if free[layer, begin : step + 1].min() >= size[layer, m]:
                    free[layer, begin : step + 1] -= size[layer, m]
                else:
                    a = layer = 0
            wanted[d] = a
            previous_layer = layer
            previous_step = step


def claimed(problem: Encoding, priority: F64, action: I64) -> I64:
    """Return int64[D], the actions that are left after tensors claimed space by priority."""
    free = np.repeat(problem.capacity_bytes[:, None], problem.game.program.num_steps, axis=1)
    wanted = np.zeros(len(action), dtype=np.int64)
    order = np.argsort(-priority, kind="stable")
    claim(
        order, action, problem.by_tensor, problem.first, problem.step, problem.reads, problem.size_bytes, free, wanted
    )
    return wanted


def fitness(problem: Encoding, priority: F64, action: I64) -> float:
    """Return the judged seconds of a genome."""
    return decode(problem.game, claimed(problem, priority, action))[0]


def mapping_of(problem: Encoding, priority: F64, action: I64) -> Mapping:
    """Return the mapping that a genome stands for."""
    _, taken = decode(problem.game, claimed(problem, priority, action))
    return rules.mapping_of(problem.game, taken)


def _sorted(genomes: Genomes) -> Genomes:
    order = np.argsort(genomes.seconds, kind="stable")
    return Genomes(priority=genomes.priority[order], action=genomes.action[order], seconds=genomes.seconds[order])


def _with_guest(home: Genomes, other: Genomes) -> Genomes:
    """Return ``home`` with its worst genome replaced by the best of ``other``."""
    priority, action, seconds = home.priority.copy(), home.action.copy(), home.seconds.copy()
    priority[-1], action[-1], seconds[-1] = other.priority[0], other.action[0], other.seconds[0]
    return _sorted(Genomes(priority=priority, action=action, seconds=seconds))


def first_genomes(problem: Encoding, rng: Generator, start: I64 | None) -> Iterator[tuple[F64, I64]]:
    """Yield ``POPULATION`` genomes: ``start`` (int64[D]) if given, then wishes from eager to shy, by density."""
    shape = problem.game.num_decisions
    for i in range(POPULATION):
        priority = problem.density**0.5 * np.exp(rng.normal(0.0, 0.5 * (i > 1), problem.num_tensors))
        if i == 0 and start is not None:
            yield priority, start
            continue
        layer = rng.integers(1, problem.game.hierarchy.num_layers, problem.num_tensors)[problem.tensor]
        kept = rng.random(problem.num_tensors)[problem.tensor] >= i / (2 * POPULATION)
        fresh = rng.random(shape) < 0.5 * rng.random() * (i > 1)
        yield priority, np.where(kept, 2 * layer - fresh, 0)


def mutate(problem: Encoding, rng: Generator, priority: F64, action: I64) -> None:
    """Change a few tensors in place: their priority, all their actions, those from some use on, or one of them."""
    num_actions = problem.game.num_actions
    for m in rng.integers(0, problem.num_tensors, 1 + rng.geometric(0.4)).tolist():
        own = problem.by_tensor[problem.first[m] : problem.first[m + 1]]
        kind = rng.random()
        if kind < 0.35 or len(own) == 0:
            priority[m] *= np.exp(rng.normal(0.0, 1.0))
        elif kind < 0.6:
            at = int(rng.integers(len(own)))
            action[own[at]] = rng.integers(num_actions)
        else:
            begin, end = sorted(rng.integers(0, len(own) + 1, 2).tolist()) if kind < 0.85 else (0, len(own))
            layer = rng.integers(1, problem.game.hierarchy.num_layers)
            action[own[begin:end]] = 0 if rng.random() < 0.4 else 2 * layer


def cross(problem: Encoding, rng: Generator, mother: tuple[F64, I64], father: tuple[F64, I64]) -> tuple[F64, I64]:
    """Return a child: each tensor from one parent, either by chance or by where in the schedule it is first used."""
    if rng.random() < 0.5:
        from_father = rng.random(problem.num_tensors) < rng.choice([0.1, 0.5])
    else:
        begins = problem.step[problem.by_tensor[np.minimum(problem.first[:-1], len(problem.by_tensor) - 1)]]
        low, high = sorted(rng.integers(0, problem.game.program.num_steps + 1, 2).tolist())
        from_father = (begins >= low) & (begins < high)
    priority = np.where(from_father, father[0], mother[0])
    return priority, np.where(from_father[problem.tensor], father[1], mother[1])


def evolve_island(
    problem: Encoding, genomes: Genomes | None, rng: Generator, stop: Callable[[], bool], start: I64 | None
) -> tuple[Genomes, Generator]:
    """Return an island after an epoch, and its random state; with ``stop`` it returns early, with less done."""
    if genomes is None:
        rows = list(first_genomes(problem, rng, start))
        judged = [np.inf if stop() else fitness(problem, *row) for row in rows]
        found = Genomes(
            priority=np.array([row[0] for row in rows]),
            action=np.array([row[1] for row in rows]),
            seconds=np.array(judged),
        )
        return _sorted(found), rng
    for _ in range(EPOCH):
        priority, action, seconds = genomes.priority.copy(), genomes.action.copy(), genomes.seconds.copy()
        for i in range(ELITE, POPULATION):
            if stop():
                break
            one, two = (int(rng.integers(0, POPULATION, 3).min()) for _ in range(2))  # tournaments: rows are sorted
            mother, father = ((genomes.priority[k], genomes.action[k]) for k in (one, two))
            priority[i], action[i] = cross(problem, rng, mother, father)
            mutate(problem, rng, priority[i], action[i])
            seconds[i] = fitness(problem, priority[i], action[i])
        genomes = _sorted(Genomes(priority=priority, action=action, seconds=seconds))
        if stop():
            break
    return genomes, rng


_PROBLEM: Encoding
_STOPPED: Event


def _begin_worker(program: Program, hierarchy: Hierarchy, stopped: Event) -> None:
    """Build the problem once a process; Ctrl-C is the parent's to handle."""
    global _PROBLEM, _STOPPED
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _PROBLEM, _STOPPED = encode(program, hierarchy), stopped


def _work(task: Task) -> tuple[Genomes, Generator]:
    return _island(_PROBLEM, task, _STOPPED.is_set)


def _island(problem: Encoding, task: Task, stopped: Callable[[], bool]) -> tuple[Genomes, Generator]:
    genomes, rng, deadline, start = task
    return evolve_island(problem, genomes, rng, lambda: stopped() or time.monotonic() >= deadline, start)


@contextmanager
def _runner(search: Incumbent, problem: Encoding, workers: int) -> Iterator[Runner]:
    """Yield what runs an epoch of all islands, in this process or in several; it returns nothing where time is over."""
    if workers <= 1:

        def here(tasks: list[Task]) -> list[tuple[Genomes, Generator]]:
            return [_island(problem, task, lambda: search.should_stop) for task in tasks]

        yield here
        return
    context = multiprocessing.get_context("spawn")
    stopped = context.Event()
    with context.Pool(workers, _begin_worker, (*search.problem, stopped)) as pool:  # its end kills the workers

        def there(tasks: list[Task]) -> list[tuple[Genomes, Generator]]:
            pending = pool.map_async(_work, tasks, chunksize=1)
            while not search.out_of_time():
                pending.wait(LOOK_SECONDS)
                if pending.ready():
                    return pending.get()
            stopped.set()
            return []

        yield there
