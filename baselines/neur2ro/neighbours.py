"""Moves of the local searches over binary plans."""

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.linear import LinearSet

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


def feasible_rows(plans: F64, stage: LinearSet) -> F64:
    """Return the plans, float64[A, n], that obey the first stage."""
    keep = np.all((plans >= stage.lower - 1e-9) & (plans <= stage.upper + 1e-9), axis=1)
    if len(stage.rows):
        activity = plans @ stage.rows.T
        keep &= np.all((activity <= stage.row_upper + 1e-9) & (activity >= stage.row_lower - 1e-9), axis=1)
    return plans[keep]


def neighbours(x: F64, stage: LinearSet, kind: str) -> F64:
    """Return the feasible plans one flip (``kind`` "flip") or one exchange ("swap") away, float64[A, n]."""
    n = len(x)
    if kind == "flip":
        return feasible_rows(np.abs(np.eye(n) - x), stage)
    on, off = np.flatnonzero(x > 0.5), np.flatnonzero(x < 0.5)
    every = np.repeat(x[None], len(on) * len(off), axis=0)
    index = np.arange(len(every))
    every[index, np.repeat(on, len(off))] = 0.0
    every[index, np.tile(off, len(on))] = 1.0
    return feasible_rows(every, stage)


def refilled(x: F64, stage: LinearSet, rng: np.random.Generator, count: int) -> F64:
    """Return up to ``count`` feasible plans a few flips away, float64[A, n], rows mended and room filled.

    Where rows are tight (budgets), single flips and exchanges are rarely feasible or leave room unused.
    """
    plans = []
    for _ in range(count):
        plan = x.copy()
        picked = np.asarray(rng.choice(len(x), size=min(len(x), int(rng.integers(1, 4))), replace=False), np.int64)
        plan[picked] = 1.0 - plan[picked]
        if _mend(plan, stage, rng, keep=picked):
            plans.append(plan)
    return np.unique(np.array(plans), axis=0) if plans else np.zeros((0, len(x)))


def _mend(plan: F64, stage: LinearSet, rng: np.random.Generator, *, keep: I64) -> bool:
    """Flip entries other than ``keep`` until every row holds, then fill the room left; in place."""
    others = rng.permutation(np.setdiff1d(np.arange(len(plan)), keep))
    broken = stage.violation(plan)
    for i in others:
        if broken <= 1e-9:
            break
        plan[i] = 1.0 - plan[i]
        now = stage.violation(plan)
        if now < broken:
            broken = now
        else:
            plan[i] = 1.0 - plan[i]
    if broken > 1e-9:
        return False
    for i in rng.permutation(others):
        if plan[i] < 0.5:
            plan[i] = 1.0
            if stage.violation(plan) > 1e-9:
                plan[i] = 0.0
    return True


def perturbed(x: F64, stage: LinearSet, rng: np.random.Generator) -> F64:
    """Return the plan with some items flipped, within the first stage; itself if none of 50 tries fits."""
    for _ in range(50):
        other = x.copy()
        count = int(rng.integers(2, max(3, len(x) // 10) + 1))
        picked = rng.choice(len(x), size=min(count, len(x)), replace=False)
        other[picked] = 1.0 - other[picked]
        if stage.violation(other) <= 1e-9:
            return other
    return x
