"""One table for solvers and for agents that know nothing but the game: held-out programs, seeds and seconds alike.

An *agent* is a factory, ``factory(seed)``, that returns a policy, ``policy(observation, info) -> action``; it plays one
game of each program, masks in ``info["action_mask"]``. Whatever plays or solves, the judge times the mapping.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import exp, log
from operator import index
from time import perf_counter
from typing import Any

import numpy as np

from mallocgame.errors import InputError
from mallocgame.evaluation import XLA, Case, Judged, judge, run
from mallocgame.game.env import MallocEnv
from mallocgame.game.observation import Observations
from mallocgame.registry import load
from mallocgame.solver import Limits

Policy = Callable[[Observations, dict[str, Any]], int]
AGENT = "agent:"  # before the name of an agent
AGENTS = "mallocgame.agents"  # entry points of agents
RANDOM = AGENT + "random"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How an entry did, against the compiler's own mappings."""

    entry: str
    programs: int
    seeds: int
    speedups: tuple[float, ...]  # per seed: geometric mean over the programs of the compiler's time / the entry's
    worst: float  # the least of all
    worst_program: str
    seconds: float  # mean wall time on a program
    invalid: int  # mappings that the judge refused; they count as everything in layer 0
    illegal: int  # games of an agent that an illegal action ended; their mappings so far count

    @property
    def speedup(self) -> float:
        """Geometric mean over the seeds."""
        return geometric_mean(self.speedups)

    def row(self) -> dict[str, Any]:
        """Return the row that ``--json`` prints."""
        found = {name: getattr(self, name) for name in ("entry", "programs", "seeds", "speedup")}
        found |= {"speedup_least_seed": min(self.speedups), "speedup_best_seed": max(self.speedups)}
        rest = ("worst", "worst_program", "seconds", "invalid", "illegal")
        return found | {name: getattr(self, name) for name in rest}


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of positive numbers."""
    return exp(sum(map(log, values)) / len(values))


def find_agent(entry: str) -> Callable[[int], Policy]:
    """Return the factory that ``agent:NAME`` or ``agent:package.module:name`` names.

    Raises:
        InputError: no such agent, or it is no function of a seed.
    """
    if entry == RANDOM:
        return random_policy
    if entry == AGENT:
        raise InputError(f"{AGENT} needs a name behind it: {RANDOM}, or {AGENT}package.module:name of your own")
    found, _ = load(AGENTS, entry.removeprefix(AGENT), "agent")
    wanted = "expected a function of a seed that returns a policy"
    if not callable(found):
        raise InputError(f"agent {entry!r} is not callable: {wanted}")
    try:
        inspect.signature(found).bind(0)
    except TypeError as error:
        raise InputError(f"agent {entry!r}: {error}; {wanted}") from None
    except ValueError:  # no signature to be seen: a builtin
        pass
    made: Callable[[int], Policy] = found
    return made


def random_policy(seed: int) -> Policy:
    """Return the policy that takes any legal action."""
    random = np.random.default_rng(seed)

    def choose(_observation: Observations, info: dict[str, Any]) -> int:
        return int(random.choice(np.flatnonzero(info["action_mask"])))

    return choose


def play(case: Case, entry: str, policy: Policy) -> Judged:
    """Let a policy play a game of a program, and judge what it ends with."""
    return _played(case, entry, policy)[0]


def _played(case: Case, entry: str, policy: Policy) -> tuple[Judged, bool]:
    """Return what ``play`` does, and whether an illegal action ended the game."""
    env = MallocEnv([(case.program, case.hierarchy)])
    begun = perf_counter()
    observation, info = env.reset(seed=0)
    done = False
    while not done:
        action = _action(entry, policy(observation, info), env.batch.num_actions)
        observation, _, done, _, info = env.step(action)
    judged = judge(case, env.to_mapping(), solver=entry, solve_seconds=perf_counter() - begun)
    return judged, bool(env.batch.illegal[0])


def _action(entry: str, found: Any, count: int) -> np.int64:
    """Return what a policy played as an action; arrays of one entry are what many libraries return.

    Raises:
        InputError: it is no whole number; one that is none of the game's actions ends the game, as an illegal one does.
    """
    try:
        return np.int64(index(found.item() if isinstance(found, np.ndarray) and found.size == 1 else found))
    except (TypeError, OverflowError):
        message = f"agent {entry!r} played {found!r:.60}, expected an action, a whole number from 0 to {count - 1}"
        raise InputError(message) from None


def score(
    cases: Sequence[Case], entry: str, *, seconds: float, seeds: int, done: Callable[[], None] = lambda: None
) -> Score:
    """Run a solver or an agent on every program with seeds 0, 1, ... and return its score.

    Args:
        cases: programs with the compiler's mapping.
        entry: a solver's name, or ``agent:`` and an agent's.
        seconds: a solver's limit on a program; an agent plays one game, however long that takes.
        seeds: how many; the compiler's own mapping has one.
        done: called after each program.

    Raises:
        InputError: no programs, no such entry, or a program without a compiler's mapping.
    """
    if not cases or seeds < 1:
        raise InputError(f"need programs and seeds, got {len(cases)} and {seeds}")
    speedups, worst, spent, invalid, illegal = [], (float("inf"), ""), 0.0, 0, 0
    numbers = range(1 if entry == XLA else seeds)
    for seed in numbers:
        own = []
        for judged, is_illegal in _judged(cases, entry, seconds, seed):
            own.append(_speedup(judged))
            worst = min(worst, (own[-1], judged.case.name))
            spent += judged.solve_seconds or 0.0
            invalid += bool(judged.violations)
            illegal += is_illegal
            done()
        speedups.append(geometric_mean(own))
    return Score(
        entry=entry,
        programs=len(cases),
        seeds=len(numbers),
        speedups=tuple(speedups),
        worst=worst[0],
        worst_program=worst[1],
        seconds=spent / len(numbers) / len(cases),
        invalid=invalid,
        illegal=illegal,
    )


def _judged(cases: Sequence[Case], entry: str, seconds: float, seed: int) -> Iterator[tuple[Judged, bool]]:
    """Yield what an entry makes of each program, and whether it broke the rules of the game.

    Solvers begin with nothing but what they find themselves.
    """
    if entry.startswith(AGENT):
        policy = find_agent(entry)(seed)
        if not callable(policy):
            raise InputError(f"agent {entry!r} returned {policy!r:.60}, expected a policy: policy(observation, info)")
        yield from (_played(case, entry, policy) for case in cases)
    else:
        limits = Limits(seconds=seconds)
        yield from ((run(case, entry, limits=limits, seed=seed, start="none"), False) for case in cases)


def _speedup(judged: Judged) -> float:
    if judged.xla_judged_seconds is None:
        raise InputError(f"{judged.case.name}: no mapping of the compiler's to compare with")
    if judged.violations:
        from mallocgame.judge.simulation import home_seconds

        return judged.xla_judged_seconds / home_seconds(judged.case.program, judged.case.hierarchy)
    return judged.xla_judged_seconds / (judged.judged_seconds or float("inf"))
