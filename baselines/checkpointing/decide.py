"""Keep, offload, recompute, decided exactly: a 0-1 program by HiGHS, with a proved bound.

A node that is wanted is run again, kept or fetched; running it again wants its inputs. Memory is one row per region,
copies that nothing hides one column per stream and direction.
"""

from collections.abc import Sequence

from mallocgame.baselines.native import call
from mallocgame.checkpointing import CheckpointPlan, CheckpointProblem, Choice

TIGHTER = 1e-6  # of the budget: taken off where the solver's tolerance let a plan exceed it


def decide(problem: CheckpointProblem, budget_bytes: int, *, seconds: float = 10.0) -> CheckpointPlan | None:
    """Return the best choices within the budget, None where there are none (or none was found in time).

    Args:
        problem: what may be kept.
        budget_bytes: device memory for the whole step.
        seconds: limit; the answer then carries the bound that was proved.
    """
    if problem.floor_bytes > budget_bytes:
        return None
    for budget in (budget_bytes, budget_bytes - max(round(TIGHTER * budget_bytes), 1)):
        found = call(_solve, problem, budget, max(seconds, 0.05), seconds=seconds + 2.0)
        if found is None or found[0] is None:
            return None
        choices = prune(problem, [Choice(value) for value in found[0]])
        if problem.peak_bytes(choices) <= budget_bytes:
            total = problem.seconds(choices)
            return CheckpointPlan(
                choices=tuple(choices),
                seconds=total,
                peak_bytes=problem.peak_bytes(choices),
                bound_seconds=min(found[1], total),
                is_optimal=found[2],
            )
    return None


def _solve(
    problem: CheckpointProblem, budget_bytes: int, seconds: float
) -> tuple[list[int] | None, float, bool]:  # runs in a child
    from mallocgame.baselines.checkpointing.linear import CheckpointModel

    return CheckpointModel(problem, budget_bytes).solve(seconds)


def prune(problem: CheckpointProblem, choices: Sequence[Choice]) -> list[Choice]:
    """Drop what saves nothing: kept values that neither the backward pass nor a recomputation reads."""
    found = list(choices)
    wanted = [node.is_needed for node in problem.nodes]
    for i in reversed(range(len(found))):
        if not wanted[i]:
            found[i] = Choice.RECOMPUTE
        elif found[i] == Choice.RECOMPUTE:
            for j in problem.nodes[i].inputs:
                wanted[j] = True
    return found
