"""Every robust method behind one name, and the judging of a plan by exact second stages."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.arg_max import CcgConfig
from mallocgame.baselines.neur2ro.ccg import solve_paper
from mallocgame.baselines.neur2ro.clock import Clock, OutOfTimeError
from mallocgame.baselines.neur2ro.exact import solve_exact
from mallocgame.baselines.neur2ro.kadaptability import solve_k_adaptability
from mallocgame.baselines.neur2ro.learned import LearnedConfig, solve_learned
from mallocgame.baselines.neur2ro.network import Network
from mallocgame.baselines.neur2ro.problem import TwoStageProblem, nominal_scenario
from mallocgame.baselines.neur2ro.references import solve_average, solve_nominal, solve_static
from mallocgame.baselines.neur2ro.result import Iteration, RobustResult
from mallocgame.baselines.neur2ro.search import SearchConfig, solve_search
from mallocgame.baselines.neur2ro.second_stages import warm_up
from mallocgame.baselines.neur2ro.solvers import Backend
from mallocgame.baselines.neur2ro.worst_case import WorstCaseOracle
from mallocgame.errors import InputError

F64 = npt.NDArray[np.float64]
Watch = Callable[[Iteration], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the methods may be told; each takes what concerns it."""

    seconds: float = 20.0
    backend: Backend = "highs"
    policies: int = 2  # k of k-adaptability
    device: str | None = None  # PyTorch device of the network's predictions (learned); None: NumPy
    on_iteration: Watch = lambda row: None


Method = Callable[[TwoStageProblem, Network | None, Options], RobustResult]


def _average(problem: TwoStageProblem, _: Network | None, options: Options) -> RobustResult:
    return solve_average(problem, seconds=options.seconds)


def _nominal(problem: TwoStageProblem, _: Network | None, options: Options) -> RobustResult:
    return solve_nominal(problem, seconds=options.seconds)


def _static(problem: TwoStageProblem, _: Network | None, options: Options) -> RobustResult:
    return solve_static(problem, seconds=options.seconds)


def _learned(problem: TwoStageProblem, network: Network | None, options: Options) -> RobustResult:
    config = LearnedConfig(seconds=options.seconds, device=options.device)
    return solve_learned(problem, network, config, on_iteration=options.on_iteration)


def _paper(problem: TwoStageProblem, network: Network | None, options: Options) -> RobustResult:
    assert network is not None
    part = max(0.2, options.seconds / 4)
    limits = CcgConfig(seconds=options.seconds, program_seconds=part, backend=options.backend)
    return solve_paper(problem, network, limits, on_iteration=options.on_iteration)


def _search(problem: TwoStageProblem, network: Network | None, options: Options) -> RobustResult:
    config = SearchConfig(seconds=options.seconds)
    return solve_search(problem, network, config, on_iteration=options.on_iteration)


def _search_alone(problem: TwoStageProblem, _: Network | None, options: Options) -> RobustResult:
    return replace(_search(problem, None, options), method="search-without-network")


def _exact(problem: TwoStageProblem, _: Network | None, options: Options) -> RobustResult:
    return solve_exact(problem, seconds=options.seconds, backend=options.backend, on_iteration=options.on_iteration)


def _k_adaptability(problem: TwoStageProblem, _: Network | None, options: Options) -> RobustResult:
    return solve_k_adaptability(problem, policies=options.policies, seconds=options.seconds)


METHODS: Mapping[str, Method] = {
    "average": _average,
    "learned": _learned,
    "paper": _paper,
    "search": _search,
    "search-without-network": _search_alone,
    "exact": _exact,
    "static": _static,
    "nominal": _nominal,
    "k-adaptability": _k_adaptability,
}
NEEDS_NETWORK = ("learned", "paper")
USES_NETWORK = (*NEEDS_NETWORK, "search")
OLD_NAMES = {"improved": "search"}  # for one release


def canonical(method: str) -> str:
    """Return today's name of a method.

    Raises:
        InputError: the name is unknown.
    """
    name = OLD_NAMES.get(method, method)
    if name not in METHODS:
        raise InputError(f"method {method!r} is unknown; expected one of {', '.join(METHODS)}")
    return name


def run(
    method: str,
    problem: TwoStageProblem,
    network: Network | None,
    *,
    seconds: float,
    backend: Backend = "highs",
    policies: int = 2,
    device: str | None = None,
    on_iteration: Watch = lambda row: None,
) -> RobustResult:
    """Solve with one of METHODS.

    Args:
        method: a name; "learned" and "paper" need a network, "search" uses one if given.
        problem: the instance.
        network: trained on the problem's family, or None.
        seconds: time limit of solving and judging together; compiling and loading come before it.
        backend: MILP solver where the method lets one choose.
        policies: k of k-adaptability.
        device: PyTorch device that learned's predictions run on, or None: NumPy.
        on_iteration: progress.

    Raises:
        InputError: an unknown method, one that needs a network and has none, one that the problem does not admit, or a
            device that is not learned's or cannot be used.
    """
    name = canonical(method)
    if name in NEEDS_NETWORK and network is None:
        raise InputError(f"method {name!r} needs a trained network; train one with: mallocgame robust train")
    if device is not None and name != "learned":
        raise InputError(f"method {name!r} runs on the CPU alone; a device is for method learned")
    options = Options(seconds=seconds, backend=backend, policies=policies, device=device, on_iteration=on_iteration)
    return METHODS[name](problem, network, options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Total costs of a plan (first stage included); inf where it has no feasible second stage."""

    worst_case: float
    exact: bool  # whether worst_case is the true one, not only the worst found
    sampled_mean: float  # of the samples priced in time; inf if one of them is infeasible
    sampled_worst: float
    nominal: float  # at the nominal scenario
    infeasible_share: float  # of the samples
    samples: int  # priced


def judge(
    problem: TwoStageProblem, x: F64, *, samples: int = 200, seed: int = 10_000, seconds: float = 60.0
) -> Judgement:
    """Return a plan's exact costs under its worst case and under sampled scenarios.

    Raises:
        InputError: the plan breaks a first-stage constraint, or there was no time for a single scenario.
    """
    stage = problem.first_stage()
    if len(x) != stage.size:
        raise InputError(f"the plan has {len(x)} numbers; expected {stage.size}")
    if stage.violation(x) > 1e-6:
        raise InputError(f"the plan breaks a first-stage constraint by {stage.violation(x):.3g}")
    warm_up(problem)
    oracle = WorstCaseOracle(problem)
    clock = Clock(seconds)
    first = float(stage.cost @ x)
    drawn = np.vstack([nominal_scenario(problem), problem.sample_scenarios(np.random.default_rng(seed), samples)])
    oracle.stages.clock = clock.part(0.4)
    values: list[float] = []
    try:
        values.extend(first + float(oracle.stages.values(x[None], xi[None])[0, 0]) for xi in drawn)
    except OutOfTimeError:
        if not values:
            raise InputError(f"no scenario could be priced within {seconds:g} s; raise --seconds") from None
    oracle.stages.clock = clock
    worst = oracle.worst_case(x, hints=drawn[[int(np.argmax(values))]])
    sampled = np.array(values[1:] or values)
    return Judgement(
        worst_case=max(worst.value, float(np.max(values))) if not worst.exact else worst.value,
        exact=worst.exact,
        sampled_mean=float(sampled.mean()),
        sampled_worst=float(sampled.max()),
        nominal=values[0],
        infeasible_share=float(np.isinf(sampled).mean()),
        samples=len(sampled),
    )
