"""The families that the command line knows by name, and the networks that come with the package."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mallocgame.baselines.neur2ro.problem import TwoStageProblem
from mallocgame.baselines.neur2ro.problems.capital_budgeting import CapitalBudgeting
from mallocgame.baselines.neur2ro.problems.knapsack import KnapsackProblem, read_knapsack
from mallocgame.baselines.neur2ro.problems.loans import LoansProblem, read_loans
from mallocgame.errors import InputError

PRETRAINED = Path(__file__).parent / "pretrained"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A family of instances: how to draw one for training, how to read one, and the sizes of its network."""

    sample: Callable[[np.random.Generator], TwoStageProblem]
    read: Callable[[str | Path], TwoStageProblem] | None
    preset: str


FAMILIES = {
    "knapsack": Family(sample=KnapsackProblem.sample, read=read_knapsack, preset="coupled"),
    "capital-budgeting": Family(sample=CapitalBudgeting.sample, read=None, preset="capital-budgeting"),
    "loans": Family(sample=LoansProblem.sample, read=read_loans, preset="capital-budgeting"),
}


def family(name: str) -> Family:
    """Return a family by name.

    Raises:
        InputError: the name is unknown.
    """
    if name not in FAMILIES:
        raise InputError(f"problem {name!r} is unknown; expected one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def pretrained(name: str) -> Path:
    """Return the folder of the network that comes with the package.

    Raises:
        InputError: there is none for this family.
    """
    folder = PRETRAINED / name
    if not (folder / "network.json").exists():
        raise InputError(f"no network comes with {name!r}; train one with: mallocgame robust train --problem {name}")
    return folder
