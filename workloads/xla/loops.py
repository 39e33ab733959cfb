"""While loops of a scheduled module: the steps they span and how often they run."""

import re
from dataclasses import dataclass, field

from mallocgame.errors import TraceError
from mallocgame.program import Loop
from mallocgame.workloads.hlo.aliases import Aliases, WhileLoop
from mallocgame.workloads.hlo.module import HloComputation, HloInstruction
from mallocgame.workloads.xla.records import XlaLog

_KNOWN = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
ASSUMED_TRIPS = 5  # XLA's guess where the count is no constant (the flag xla_tpu_…_while_execution_count)
_FOLLOWED = frozenset({"copy", "bitcast", "reshape", "convert"})


@dataclass(frozen=True, kw_only=True)
class TripCounts:
    """How often loops run whose trip count is no constant: what the user says, by name or for all, else XLA's guess.

    ``assumed`` collects what was used: loop, count, and whether the user said so.
    """

    given: dict[str, int] = field(default_factory=dict)  # by the while instruction's name; "": all others
    assumed: dict[str, tuple[int, bool]] = field(default_factory=dict)

    def of(self, loop: str, guess: int) -> int:
        """Return how often ``loop`` is taken to run, where XLA guesses ``guess``."""
        count = self.given.get(loop, self.given.get(""))
        self.assumed[loop] = (guess if count is None else count, count is not None)
        return self.assumed[loop][0]

    def check(self, names: list[str], path: object) -> None:
        """Refuse counts of loops that there are not, or whose count is a constant."""
        strangers = [name for name in self.given if name and name not in self.assumed]
        if strangers:
            known = ", ".join(self.assumed) or "there is none"
            what = "has a constant trip count" if strangers[0] in names else "is no loop of the program"
            raise TraceError(path, None, f"--trip-count {strangers[0]}: {what}; of unknown count: {known}")


def find_loops(log: XlaLog, aliases: Aliases, counts: TripCounts | None = None) -> tuple[Loop, ...]:
    """Return the loops over the steps of ``log.schedule``, outer loops first.

    A trip count that is no constant is taken from ``counts``, else as XLA's simulator has it, which assumes 5.

    Raises:
        TraceError: without ``counts``, a loop whose trip count is not a constant; a schedule that does not hold a loop
            in one piece, a computation that no loop runs, a count of a loop that there is not.
    """
    trips = _simulated_trips(log)
    children: dict[str, list[WhileLoop]] = {}
    for loop in aliases.loops:
        children.setdefault(loop.parent, []).append(loop)
    steps: dict[str, list[int]] = {}
    for step, (computation, _) in enumerate(log.schedule):
        steps.setdefault(computation, []).append(step)
    found: list[Loop] = []
    reached = {aliases.module.entry}
    waiting = [(aliases.module.entry, 1)]  # with XLA's count of executions
    while waiting:
        parent, executions = waiting.pop(0)
        for loop in children.get(parent, []):
            count = trip_count(aliases, loop)
            simulated = trips.get(loop.body)
            theirs = count
            if count is None:
                if counts is None:
                    raise TraceError(log.path, None, f"{loop.instruction}: the trip count is not known")
                theirs = max(simulated // executions, 1) if simulated else ASSUMED_TRIPS
                count = counts.of(loop.instruction, theirs)
            assert theirs is not None
            if simulated is not None and simulated != theirs * executions:
                reason = f"{loop.instruction} runs {count} times, XLA's simulator says {simulated / executions:g}"
                raise TraceError(log.path, None, reason)
            inside = sorted(step for name in _nested(loop, children) for step in steps.get(name, []))
            if not inside or inside != list(range(inside[0], inside[-1] + 1)):
                raise TraceError(log.path, None, f"{loop.instruction}: its steps are not in one piece")
            if count < 1:
                raise TraceError(log.path, None, f"{loop.instruction}: runs {count} times")
            found.append(Loop(start_step=inside[0], end_step=inside[-1] + 1, trip_count=count))
            reached |= {loop.body, loop.condition}
            waiting += [(name, executions * theirs) for name in (loop.body, loop.condition)]
    if counts is not None:
        counts.check([loop.instruction for loop in aliases.loops], log.path)
    strangers = [name for name in steps if name not in reached]
    if strangers:
        raise TraceError(log.path, None, f"steps of computation {strangers[0]}, which no while loop runs")
    return tuple(found)


def _nested(loop: WhileLoop, children: dict[str, list[WhileLoop]]) -> list[str]:
    names = [loop.condition, loop.body]
    for inner in (*children.get(loop.body, []), *children.get(loop.condition, [])):
        names += _nested(inner, children)
    return names


def _simulated_trips(log: XlaLog) -> dict[str, int]:
    """Return XLA's execution count per computation: what its instructions' lines agree on (0 and 1 are defaults)."""
    computation_of = {name: computation for computation, name in log.schedule}
    counts: dict[str, int] = {}
    for row in log.simulated:
        computation = computation_of.get(row.name)
        if computation is not None and row.trip_count:
            counts[computation] = max(counts.get(computation, 0), row.trip_count)
    return counts


def trip_count(aliases: Aliases, loop: WhileLoop) -> int | None:
    """Return how often the body runs, if the compiler annotated it or counting from a constant to a constant shows it.

    The condition must compare the counter with a constant, and the body add a constant to the counter.
    """
    instruction = aliases.instruction(loop.instruction)
    known = _KNOWN.search(instruction.attributes)
    if known:
        return int(known[1])
    condition = aliases.module.computations[loop.condition]
    test = condition.instructions[condition.root]
    direction = re.search(r"direction=(\w+)", test.attributes)
    if test.opcode != "compare" or direction is None:
        return None
    counter = _tuple_element(condition, test.operands[0])
    limit = _constant(aliases, condition, test.operands[1], loop)
    if counter is None or limit is None:
        return None
    start = _initial(aliases, loop, counter)
    step = _increment(aliases, loop, counter)
    if start is None or not step:
        return None
    return _count(start, limit, step, direction[1])


def _count(start: int, limit: int, step: int, direction: str) -> int | None:
    if direction in ("LE", "GE"):
        limit += 1 if direction == "LE" else -1
    if direction in ("LT", "LE") and step > 0:
        return max(0, -(-(limit - start) // step))
    if direction in ("GT", "GE") and step < 0:
        return max(0, -(-(start - limit) // -step))
    if direction == "NE" and (limit - start) % step == 0:
        return max(0, (limit - start) // step)
    return None


def _resolve(computation: HloComputation, name: str) -> HloInstruction:
    """Follow copies; what they copy has the same value."""
    instruction = computation.instructions[name]
    while instruction.opcode in _FOLLOWED:
        instruction = computation.instructions[instruction.operands[0]]
    return instruction


def _tuple_element(computation: HloComputation, name: str) -> int | None:
    """Return which element of the computation's parameter ``name`` is."""
    instruction = _resolve(computation, name)
    if instruction.opcode != "get-tuple-element":
        return None
    if _resolve(computation, instruction.operands[0]).opcode != "parameter":
        return None
    return instruction.element


def _constant(aliases: Aliases, computation: HloComputation, name: str, loop: WhileLoop) -> int | None:
    instruction = _resolve(computation, name)
    if instruction.opcode == "constant":
        value = re.fullmatch(r"-?\d+", instruction.arguments.strip())
        return int(value[0]) if value else None
    element = _tuple_element(computation, name)
    if element is None or computation.name == loop.parent or not _invariant(aliases, loop, element):
        return None
    return _initial(aliases, loop, element)


def _invariant(aliases: Aliases, loop: WhileLoop, element: int) -> bool:
    body = aliases.module.computations[loop.body]
    root = body.instructions[body.root]
    return root.opcode == "tuple" and _tuple_element(body, root.operands[element]) == element


def _initial(aliases: Aliases, loop: WhileLoop, element: int) -> int | None:
    parent = aliases.module.computations[loop.parent]
    start = _resolve(parent, aliases.instruction(loop.instruction).operands[0])
    if start.opcode != "tuple":
        return None
    value = _resolve(parent, start.operands[element])
    if value.opcode != "constant":
        return None
    number = re.fullmatch(r"-?\d+", value.arguments.strip())
    return int(number[0]) if number else None


def _increment(aliases: Aliases, loop: WhileLoop, element: int) -> int | None:
    body = aliases.module.computations[loop.body]
    root = body.instructions[body.root]
    if root.opcode != "tuple":
        return None
    update = _resolve(body, root.operands[element])
    if update.opcode != "add":
        return None
    for counter, amount in (update.operands, update.operands[::-1]):
        if _tuple_element(body, counter) == element:
            return _constant(aliases, body, amount, loop)
    return None
