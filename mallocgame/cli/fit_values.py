"""The rows of ``mallocgame fit --values``: one for each value that may be kept."""

from typing import Any

from mallocgame.checkpointing import CheckpointPlan, CheckpointProblem, Choice


def value_rows(problem: CheckpointProblem, plan: CheckpointPlan | None) -> list[dict[str, Any]]:
    """Return a row for each named value that would be recomputed or copied, the largest saving first.

    ``recompute_seconds`` is what keeping this value alone saves; ``needed_after_seconds`` how long it then lies unused,
    of a loop's values on average.
    """
    nothing = [Choice.RECOMPUTE] * len(problem.nodes)
    again = problem.recomputed(nothing)
    waits = _needed_after(problem)
    rows = []
    for i, node in enumerate(problem.nodes):
        if not node.name or not (again[i] or node.is_entry):
            continue
        saved = 0.0 if node.is_entry else _saving(problem, i, again)
        choice = Choice.RECOMPUTE if plan is None else plan.choices[i]
        rows.append(
            {
                "kind": "value",
                "name": node.name,
                "origin": node.origin.removeprefix("name "),
                "region": problem.regions[node.region].name,
                "iterations": problem.regions[node.region].iterations,
                "size_bytes": node.size_bytes,
                "recompute_seconds": saved,
                "out_seconds": node.size_bytes / problem.out_bytes_per_second,
                "in_seconds": node.size_bytes / problem.in_bytes_per_second,
                "needed_after_seconds": waits[node.region],
                "choice": "keep" if node.is_entry and choice == Choice.RECOMPUTE else choice.name.lower(),
            }
        )
    return sorted(rows, key=lambda row: (-row["recompute_seconds"], -row["size_bytes"]))


def _saving(problem: CheckpointProblem, kept: int, again: list[bool]) -> float:
    """Return the seconds of its region that keeping one node alone saves."""
    region = problem.nodes[kept].region
    members = [i for i, node in enumerate(problem.nodes) if node.region == region]
    wanted = {i for i in members if problem.nodes[i].is_needed}
    total = sum(problem.nodes[i].seconds for i in members if again[i])
    for i in reversed(members):
        if i in wanted and i != kept:
            total -= problem.nodes[i].seconds
            wanted.update(problem.nodes[i].inputs)
    return total


def _needed_after(problem: CheckpointProblem) -> list[float]:
    """Return, per region, the seconds between its forward and its backward pass."""
    waits, later = [], 0.0
    for region in reversed(problem.regions):
        own = (region.forward_seconds + region.backward_seconds) / 2 if region.is_loop else 0.0
        waits.append(later + own)
        later += region.forward_seconds + region.backward_seconds
    return waits[::-1]
