"""Training data: exact second-stage values of plan-scenario pairs, generated in parallel, resumable shard by shard.

An instance gives ``plans`` x ``scenarios`` labels: every plan meets every scenario, so an encoder runs once per plan
and once per scenario, not once per label. Shards are .npz files without pickled objects.
"""

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.neighbours import feasible_rows
from mallocgame.baselines.neur2ro.problem import TwoStageProblem
from mallocgame.baselines.neur2ro.second_stages import SecondStages
from mallocgame.baselines.neur2ro.worst_case import WorstCaseOracle
from mallocgame.errors import InputError
from mallocgame.files import atomic_path, read_text, write_text
from mallocgame.files.arrays import load_arrays
from mallocgame.system import num_cores

LABEL_GAP = 1e-3  # relative, of mixed-integer second stages: far below what a network learns
AVERAGE_GAP = 1e-2  # relative, of the plan that others are flipped from ...
AVERAGE_SECONDS = 10.0  # ... and the time it may take
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Sampler = Callable[[np.random.Generator], TwoStageProblem]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPlan:
    """How much to generate; instance k draws from seed (seed, k), whatever the number of processes.

    ``worst_cases`` plans of each instance meet their own worst scenario (every second one mixed with a random one)
    among the scenarios, and the plans that answer those scenarios join the plans: labels where the solver will look.
    ``near_average`` plans (0 by default) are the answer to the mean scenario with some entries flipped.
    """

    instances: int = 2000
    plans: int = 16
    scenarios: int = 32
    worst_cases: int = 3
    per_shard: int = 50
    seed: int = 12345
    near_average: int = 0

    def __post_init__(self) -> None:
        if min(self.instances, self.plans, self.scenarios, self.per_shard) < 1:
            raise InputError(f"need at least one instance, plan, scenario and instance a shard: {asdict(self)}")
        if not 0 <= 2 * self.worst_cases <= min(self.plans, self.scenarios):
            raise InputError(f"worst_cases is {self.worst_cases}; expected 0 to half the plans and scenarios")
        if not 0 <= self.near_average <= self.plans:
            raise InputError(f"near_average is {self.near_average}; expected 0 to {self.plans}, the number of plans")

    @property
    def stamp(self) -> dict[str, int]:
        """What a folder of data remembers; fields newer than the first version only where they say something."""
        return {name: value for name, value in asdict(self).items() if name != "near_average" or value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One instance's labels: variable and static network inputs, and scaled values (NaN: infeasible pair)."""

    x_points: F32  # [plans, items, x width]
    x_items: F32  # [items, features]
    xi_points: F32  # [scenarios, items, xi width]
    xi_items: F32  # [items, features]
    labels: F32  # [plans, scenarios]


FIELDS = ("x_points", "x_items", "xi_points", "xi_items", "labels")


def make_example(problem: TwoStageProblem, rng: np.random.Generator, plan: DataPlan) -> Example:
    """Return the labels of one instance."""
    features = problem.features()
    xs = problem.sample_first_stage(rng, plan.plans)
    xis = problem.sample_scenarios(rng, plan.scenarios)
    if plan.near_average:
        near = _near_average(problem, rng, plan.near_average)
        xs[len(xs) - len(near) :] = near
    _seek_worst_cases(problem, rng, plan.worst_cases, xs, xis)
    values = SecondStages(problem, gap=LABEL_GAP).values(xs, xis)
    labels = np.where(np.isfinite(values), (values - features.label_offset) / features.label_scale, np.nan)
    arrays = (features.x_map(xs), features.x_items, features.xi_map(xis), features.xi_items, labels)
    return Example(**dict(zip(FIELDS, (array.astype(np.float32) for array in arrays), strict=True)))


def _near_average(problem: TwoStageProblem, rng: np.random.Generator, count: int) -> F64:
    """Return up to ``count`` feasible plans, float64[A, nx]: the answer to the mean scenario, some entries flipped."""
    stage = problem.first_stage()
    if not stage.is_binary:
        return np.zeros((0, stage.size))
    centre = SecondStages(problem).answer(problem.mean_scenario(), seconds=AVERAGE_SECONDS, gap=AVERAGE_GAP).x
    flips = rng.random((count, stage.size)) < rng.choice((0.02, 0.1, 0.2), size=(count, 1))
    return feasible_rows(np.where(flips, 1.0 - centre, centre), stage)


def _seek_worst_cases(problem: TwoStageProblem, rng: np.random.Generator, count: int, xs: F64, xis: F64) -> None:
    """Replace the first scenarios by worst cases of the last plans, the first plans by answers to them, in place."""
    if count == 0:
        return
    oracle = WorstCaseOracle(problem, tolerance=5e-3)
    if not oracle.stages.is_fast and problem.uncertainty_kind != "objective":
        return  # hundreds of slow second stages a plan: the sampled pairs must do
    convex = not problem.uncertainty().integer.any()
    for k in range(count):
        worst = oracle.worst_case(xs[-1 - k]).xi
        xs[k] = problem.deterministic(worst).x
        share = rng.uniform(0.05, 0.6)
        xis[2 * k] = worst
        if convex:
            xis[2 * k + 1] = (1 - share) * worst + share * xis[2 * k + 1]


def _write_shard(arguments: tuple[Sampler, DataPlan, int, Path]) -> int:
    sampler, plan, shard, path = arguments
    arrays = {}
    first = shard * plan.per_shard
    count = min(plan.per_shard, plan.instances - first)
    for k in range(count):
        rng = np.random.default_rng([plan.seed, first + k])
        example = make_example(sampler(rng), rng, plan)
        for name in FIELDS:
            arrays[f"{k}.{name}"] = getattr(example, name)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)
    return count


def generate(
    sampler: Sampler,
    plan: DataPlan,
    folder: str | Path,
    *,
    processes: int | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> float:
    """Write the shards that ``folder`` lacks and return the seconds it took.

    Args:
        sampler: a picklable function from a generator to an instance (a family's ``sample``).
        plan: how much; a folder written with another plan is refused.
        folder: created if absent.
        processes: worker processes; None is one per core, 1 stays in this process.
        on_progress: called with the number of instances done.

    Raises:
        InputError: the folder holds data of another plan.
    """
    began = time.perf_counter()
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    stamp = target / "plan.txt"
    text = f"{_name_of(sampler)} {plan.stamp}\n"
    if stamp.exists() and (other := read_text(stamp)) != text:
        raise InputError(f"{target} holds data of another plan ({other.strip()}); use a new folder")
    write_text(stamp, text)
    shards = range(-(-plan.instances // plan.per_shard))
    jobs = [(sampler, plan, s, p) for s in shards if not (p := _shard_path(target, s)).exists()]
    done = plan.instances - sum(min(plan.per_shard, plan.instances - job[2] * plan.per_shard) for job in jobs)
    on_progress(done)
    workers = min(processes or num_cores(), len(jobs))
    if workers <= 1:
        for job in jobs:
            done += _write_shard(job)
            on_progress(done)
    else:
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            for count in pool.imap_unordered(_write_shard, jobs):
                done += count
                on_progress(done)
    return time.perf_counter() - began


def _name_of(sampler: Sampler) -> str:
    owner = getattr(sampler, "__self__", None)
    name = getattr(sampler, "__qualname__", str(sampler))
    inherited = isinstance(owner, type) and not name.startswith(owner.__qualname__)
    return f"{owner.__qualname__}: {name}" if inherited and isinstance(owner, type) else name


def _shard_path(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:05d}.npz"


def load_examples(folder: str | Path, plan: DataPlan) -> list[Example]:
    """Read all shards in order.

    Raises:
        InputError: a shard is missing or damaged.
    """
    examples = []
    for shard in range(-(-plan.instances // plan.per_shard)):
        path = _shard_path(Path(folder), shard)
        try:
            with path.open("rb") as file:
                data = load_arrays(file)
            for k in range(sum(name.endswith(".labels") for name in data)):
                parts = {name: data[f"{k}.{name}"] for name in FIELDS}
                examples.append(Example(**parts))
        except Exception:  # whatever zipfile and NumPy raise for damage
            raise InputError(f"{path} is missing or damaged; delete it and generate again") from None
    return examples
