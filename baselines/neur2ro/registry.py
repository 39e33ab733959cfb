"""The families that the command line knows: ours, those of installed packages, and ``package.module:Class``.

An installed package adds a family with an entry point of group ``mallocgame.robust_problems`` whose value names a
subclass of ``TwoStageProblem``; its optional classmethod ``read(path)`` opens instance files, its optional attribute
``preset`` names the sizes of its network.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mallocgame.baselines.neur2ro.problem import TwoStageProblem
from mallocgame.baselines.neur2ro.problems.capital_budgeting import CapitalBudgeting
from mallocgame.baselines.neur2ro.problems.commitment import CommitmentProblem
from mallocgame.baselines.neur2ro.problems.facility import FacilityProblem
from mallocgame.baselines.neur2ro.problems.knapsack import KnapsackProblem, read_knapsack
from mallocgame.baselines.neur2ro.problems.loans import LoansProblem, read_loans
from mallocgame.baselines.neur2ro.problems.memory import MemoryProblem
from mallocgame.errors import InputError
from mallocgame.registry import load, registered

PRETRAINED = Path(__file__).parent / "pretrained"
GROUP = "mallocgame.robust_problems"
REQUIRED = ("uncertainty_kind", "sample", "first_stage", "uncertainty", "recourse")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A family of instances: how to draw one for training, how to read one, and the sizes of its network."""

    name: str
    sample: Callable[[np.random.Generator], TwoStageProblem]
    read: Callable[[str | Path], TwoStageProblem] | None
    preset: str | None  # None: whichever fits the features


FAMILIES = {
    row.name: row
    for row in (
        Family(name="knapsack", sample=KnapsackProblem.sample, read=read_knapsack, preset="coupled"),
        Family(name="capital-budgeting", sample=CapitalBudgeting.sample, read=None, preset="capital-budgeting"),
        Family(name="loans", sample=LoansProblem.sample, read=read_loans, preset="capital-budgeting"),
        Family(name="memory", sample=MemoryProblem.sample, read=None, preset="coupled"),
        Family(name="facility", sample=FacilityProblem.sample, read=None, preset=None),
        Family(name="commitment", sample=CommitmentProblem.sample, read=None, preset=None),
    )
}


def family(name: str) -> Family:
    """Return a family by its name, the name of an entry point, or ``package.module:Class``.

    Raises:
        InputError: no such family, module or class, or a class that is no two-stage problem.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    known = [*FAMILIES, *sorted(registered(GROUP))]
    if ":" not in name and name not in known:
        raise InputError(f"problem {name!r} is unknown; expected one of {', '.join(known)}, or package.module:Class")
    if name.startswith(":") or name.endswith(":"):
        raise InputError(f"problem {name!r}; expected package.module:Class")
    found, _ = load(GROUP, name, "problem")
    return _family_of(name, found)


def _family_of(name: str, kind: Any) -> Family:
    if not isinstance(kind, type) or TwoStageProblem not in kind.__mro__:
        raise InputError(f"problem {name!r} is not a subclass of mallocgame.baselines.neur2ro.problem.TwoStageProblem")
    own = {member for base in kind.__mro__ if base is not TwoStageProblem for member in vars(base)}
    annotated = {member for base in kind.__mro__ if base is not TwoStageProblem for member in _annotations(base)}
    missing = [member for member in REQUIRED if member not in own | annotated]
    if missing:
        raise InputError(f"problem {name!r} lacks {', '.join(missing)}; docs/neur2ro.md has an example in 40 lines")
    preset = getattr(kind, "preset", None)
    problem: Any = kind
    return Family(name=name, sample=problem.sample, read=getattr(kind, "read", None), preset=preset)


def _annotations(kind: type) -> dict[str, Any]:
    return dict(getattr(kind, "__annotations__", {})) if kind is not object else {}


def pretrained(name: str) -> Path:
    """Return the folder of the network that comes with the package.

    Raises:
        InputError: there is none for this family.
    """
    folder = PRETRAINED / name
    if not (folder / "network.json").exists():
        raise InputError(f"no network comes with {name!r}; train one with: mallocgame robust train --problem {name}")
    return folder
