"""Run a ``LinearModel`` on an open solver: HiGHS by default, SCIP on request."""

import ctypes
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.linear import LinearModel, LinearSet
from mallocgame.errors import InputError, MissingExtraError

F64 = npt.NDArray[np.float64]
Backend = Literal["highs", "scip"]
Status = Literal["optimal", "feasible", "infeasible", "unbounded", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MilpResult:
    """What a solver found; ``values`` is empty unless the status is optimal or feasible."""

    status: Status
    objective: float
    bound: float  # proved lower bound on the minimum
    values: F64
    seconds: float

    @property
    def has_solution(self) -> bool:
        return self.values.size > 0


def solve(
    model: LinearModel,
    *,
    backend: Backend = "highs",
    seconds: float = 60.0,
    gap: float = 1e-4,
    start: F64 | None = None,
    threads: int = 1,
) -> MilpResult:
    """Minimise the model.

    Args:
        model: the program; it is not changed.
        backend: "highs" or "scip".
        seconds: wall-clock limit.
        gap: relative gap at which to stop.
        start: a feasible point, float64[columns] (NaN: let the solver complete it), or None. HiGHS completes points by
            fixing what is given; SCIP takes whole ones only.
        threads: threads that the solver may use.

    Raises:
        MissingExtraError: the solver's Python package is not installed.
        InputError: ``backend`` is not a known name.
    """
    began = time.perf_counter()
    if backend == "highs":
        status, objective, bound, values = _highs(model, seconds, gap, start, threads)
    elif backend == "scip":
        status, objective, bound, values = _scip(model, seconds, gap, start)
    else:
        raise InputError(f"solver {backend!r} is unknown; expected 'highs' or 'scip'")
    elapsed = time.perf_counter() - began
    return MilpResult(status=status, objective=objective, bound=bound, values=values, seconds=elapsed)


def require(result: MilpResult, what: str) -> MilpResult:
    """Return the result if it holds a solution; otherwise say by name that ``what`` is infeasible or unbounded.

    Raises:
        InputError: no solution.
    """
    if result.has_solution:
        return result
    reasons = {
        "infeasible": "is infeasible: no point satisfies its constraints",
        "unbounded": "is unbounded: its objective falls without limit; add bounds",
    }
    raise InputError(f"{what} {reasons.get(result.status, 'gave no solution within the time limit')}")


def import_highs() -> Any:
    """Return the ``highspy`` module.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import highspy
    except ImportError:
        raise MissingExtraError("highspy", "robust") from None
    return highspy


_banner_shown = False


@contextmanager
def _no_banner() -> Iterator[None]:
    """Keep the notice that HiGHS prints, at its first instance and from C, out of standard output."""
    global _banner_shown
    if _banner_shown:
        yield
        return
    _banner_shown = True
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            yield
            ctypes.CDLL(None).fflush(None)
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def highs_program(model: LinearModel) -> Any:
    """Return a silent ``highspy.Highs`` holding the model (one thread, no limits)."""
    highspy = import_highs()
    with _no_banner():
        program = highspy.Highs()
    program.setOptionValue("output_flag", False)
    program.setOptionValue("threads", 1)
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = model.num_columns, model.num_rows
    lp.col_cost_, lp.offset_ = np.array(model.cost), model.offset
    lp.col_lower_, lp.col_upper_ = np.array(model.lower), np.array(model.upper)
    lp.row_lower_, lp.row_upper_ = np.array(model.row_lower), np.array(model.row_upper)
    lengths = [len(columns) for columns in model.row_columns]
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_ = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    lp.a_matrix_.index_ = _joined(model.row_columns).astype(np.int32)
    lp.a_matrix_.value_ = _joined(model.row_values)
    if any(model.integer):
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        lp.integrality_ = [kinds[flag] for flag in model.integer]
    program.passModel(lp)
    return program


def _joined(parts: list[Any]) -> Any:
    return np.concatenate(parts) if parts else np.zeros(0)


def _highs(
    model: LinearModel, seconds: float, gap: float, start: F64 | None, threads: int
) -> tuple[Status, float, float, F64]:
    highspy = import_highs()
    program = highs_program(model)
    program.setOptionValue("time_limit", float(max(seconds, 0.01)))
    program.setOptionValue("mip_rel_gap", gap)
    program.setOptionValue("threads", threads)
    if start is not None:
        given = np.flatnonzero(np.isfinite(start)).astype(np.int32)
        program.setSolution(len(given), given, start[given])
    program.run()
    state = program.getModelStatus()
    info = program.getInfo()
    kinds = highspy.HighsModelStatus
    if state == kinds.kUnboundedOrInfeasible:
        program.setOptionValue("presolve", "off")
        program.run()
        state, info = program.getModelStatus(), program.getInfo()
    if state in (kinds.kInfeasible, kinds.kUnbounded, kinds.kUnboundedOrInfeasible):
        status: Status = "infeasible" if state == kinds.kInfeasible else "unbounded"
        return status, np.inf if status == "infeasible" else -np.inf, -np.inf, np.zeros(0)
    feasible = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    if any(model.integer):
        bound = float(info.mip_dual_bound)
    else:  # a linear program that was cut short proves nothing
        bound = float(info.objective_function_value) if state == kinds.kOptimal else -np.inf
    if not feasible:
        return "unknown", np.inf, bound, np.zeros(0)
    values = np.array(program.getSolution().col_value)
    done = state == kinds.kOptimal
    return "optimal" if done else "feasible", float(info.objective_function_value), bound, values


def _scip(model: LinearModel, seconds: float, gap: float, start: F64 | None) -> tuple[Status, float, float, F64]:
    try:
        import pyscipopt
    except ImportError:
        raise InputError("pyscipopt is not installed; install it with: pip install pyscipopt") from None
    program = pyscipopt.Model()
    program.hideOutput()
    program.setParam("limits/time", float(seconds))
    program.setParam("limits/gap", gap)
    variables = []
    for low, high, cost, whole in zip(model.lower, model.upper, model.cost, model.integer, strict=True):
        bounds = (None if np.isinf(low) else low, None if np.isinf(high) else high)
        variables.append(program.addVar(lb=bounds[0], ub=bounds[1], obj=cost, vtype="I" if whole else "C"))
    for columns, values, low, high in zip(
        model.row_columns, model.row_values, model.row_lower, model.row_upper, strict=True
    ):
        terms = pyscipopt.quicksum(float(v) * variables[int(c)] for c, v in zip(columns, values, strict=True))
        if low == high:
            program.addCons(terms == low)
            continue
        if np.isfinite(low):
            program.addCons(terms >= low)
        if np.isfinite(high):
            program.addCons(terms <= high)
    if start is not None and np.isfinite(start).all():
        solution = program.createSol()
        for variable, value in zip(variables, start, strict=True):
            program.setSolVal(solution, variable, float(value))
        program.addSol(solution)
    program.optimize()
    state = program.getStatus()
    if state in ("infeasible", "unbounded", "inforunbd"):
        status: Status = "infeasible" if state == "infeasible" else "unbounded"
        return status, np.inf if status == "infeasible" else -np.inf, -np.inf, np.zeros(0)
    bound = program.getDualbound() + model.offset
    if program.getNSols() == 0:
        return "unknown", np.inf, bound, np.zeros(0)
    found = program.getBestSol()
    values = np.array([program.getSolVal(found, variable) for variable in variables])
    done = state in ("optimal", "gaplimit")
    return "optimal" if done else "feasible", program.getObjVal() + model.offset, bound, values


def optimise_over(
    linear_set: LinearSet, cost: F64, what: str, *, backend: Backend = "highs", seconds: float = 60.0
) -> F64:
    """Return a point of the set with the least cost (float64[n]).

    Raises:
        InputError: the set is empty or the cost unbounded on it; ``what`` names it.
    """
    model = LinearModel()
    model.set_cost(model.add_set(linear_set), cost)
    return require(solve(model, backend=backend, seconds=seconds, gap=1e-9), what).values
