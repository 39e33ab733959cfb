"""Every reason why a mapping is not one. Shares no code with the rules, the simulator's kernels or any solver."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.coherence import stale_uses
from mallocgame.mapping import HELD, HOME, Mapping, Residency, Transfer, rectangles
from mallocgame.program import Program, UseKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One broken rule: which, for which tensor, at which step, and in words."""

    rule: str
    tensor: int
    step: int
    message: str


def validate(program: Program, hierarchy: Hierarchy, mapping: Mapping) -> list[Violation]:
    """Return every violation, ordered by rule; the empty list means the mapping is valid.

    The rules (docs/judge.md): ``reference`` indices and spans exist; ``movable`` only movable tensors leave layer 0;
    ``capacity`` offsets within the layer; ``alignment``; ``overlap`` in address and time; ``one-place`` at most one
    filled residency of a tensor per layer and step; ``fill`` a residency begins with its definition, a whole copy, or
    is held from the run before; ``transfer`` a copy fits its source and target; ``loop`` a copy lies within one
    iteration or outside the loop; ``branch`` a copy lies inside one branch or outside the conditional; ``in-flight``
    limits; ``hoist`` and ``held`` where the program allows them; ``stale`` every use finds current contents, on every
    way through loops and branches, and outputs end in layer 0.
    """
    found = list(_references(program, hierarchy, mapping))
    if found:
        return found  # the other rules would only repeat that the tables do not fit together
    checks = (_residencies, _overlaps, _one_place, _fills, _transfers, _in_flight, _hoists, _held, _staleness)
    for check in checks:
        found.extend(check(program, hierarchy, mapping))
    return found


def _references(program: Program, hierarchy: Hierarchy, mapping: Mapping) -> Iterator[Violation]:
    num_tensors, num_steps, num_layers = len(program.tensors), program.num_steps, hierarchy.num_layers
    for index, r in enumerate(mapping.residencies):
        if not 0 <= r.tensor < num_tensors:
            yield _broken("reference", r.tensor, r.start_step, f"residency {index} names tensor {r.tensor}")
        elif not 1 <= r.layer < num_layers:
            yield _broken("reference", r.tensor, r.start_step, f"residency {index} names layer {r.layer}")
        elif not HELD <= r.start_step < r.end_step <= num_steps or r.end_step == 0:
            yield _broken(
                "reference", r.tensor, r.start_step, f"residency {index} spans [{r.start_step}, {r.end_step})"
            )
    for index, x in enumerate(mapping.transfers):
        places = (x.source, x.target)
        if not 0 <= x.tensor < num_tensors:
            yield _broken("reference", x.tensor, x.start_after, f"transfer {index} names tensor {x.tensor}")
        elif any(not HOME <= place < len(mapping.residencies) for place in places) or x.source == x.target:
            yield _broken("reference", x.tensor, x.start_after, f"transfer {index} goes from {x.source} to {x.target}")
        elif any(place != HOME and mapping.residencies[place].tensor != x.tensor for place in places):
            yield _broken("reference", x.tensor, x.start_after, f"transfer {index} joins residencies of another tensor")
        elif HOME not in places and len({mapping.residencies[place].layer for place in places}) == 1:
            yield _broken("reference", x.tensor, x.start_after, f"transfer {index} stays within one layer: no link")
        elif not -1 <= x.start_after < x.done_before <= num_steps:
            span = f"({x.start_after}, {x.done_before})"
            yield _broken("reference", x.tensor, x.start_after, f"transfer {index} spans {span}")
        elif x.size_bytes <= 0:
            yield _broken("reference", x.tensor, x.start_after, f"transfer {index} moves {x.size_bytes} bytes")


def _residencies(program: Program, hierarchy: Hierarchy, mapping: Mapping) -> Iterator[Violation]:
    for r in mapping.residencies:
        tensor, layer = program.tensors[r.tensor], hierarchy.layers[r.layer]
        what = f"{tensor.name} ({tensor.size_bytes} bytes) at offset {r.offset_bytes} of {layer.name}"
        if not tensor.movable:
            yield _broken("movable", r.tensor, r.start_step, f"{what}: it must stay in {hierarchy.layers[0].name}")
        if r.offset_bytes < 0 or r.offset_bytes + tensor.size_bytes > layer.capacity_bytes:
            yield _broken("capacity", r.tensor, r.start_step, f"{what}: capacity is {layer.capacity_bytes} bytes")
        if r.offset_bytes % layer.alignment_bytes:
            yield _broken("alignment", r.tensor, r.start_step, f"{what}: alignment is {layer.alignment_bytes} bytes")


def _overlaps(program: Program, hierarchy: Hierarchy, mapping: Mapping) -> Iterator[Violation]:
    """Sweep each layer in time. While what is live is disjoint, only a rectangle's neighbours can overlap it."""
    blocks: list[list[int]] = rectangles(program, mapping).tolist()
    for layer in range(1, hierarchy.num_layers):
        inside = [b for b, block in enumerate(blocks) if mapping.residencies[block[0]].layer == layer]
        events = [(max(blocks[b][3], 0), 1, b) for b in inside]
        events += [(blocks[b][4], 0, b) for b in inside]
        live: list[tuple[int, int]] = []  # (offset, block), sorted
        disjoint = True
        for step, opens, b in sorted(events):
            residency, offset, size, _, _ = blocks[b]
            tensor = mapping.residencies[residency].tensor
            name, at = program.tensors[tensor].name, bisect_left(live, (offset, b))
            if not opens:
                del live[at]
                continue
            near = live[max(at - 1, 0) : at + 1] if disjoint else live
            for start, other in near:
                if start < offset + size and offset < start + blocks[other][2]:
                    disjoint = False
                    neighbour = program.tensors[mapping.residencies[blocks[other][0]].tensor].name
                    message = f"{name} at [{offset}, {offset + size}) overlaps {neighbour} at {start}"
                    yield _broken("overlap", tensor, step, message)
            live.insert(at, (offset, b))


def _one_place(program: Program, hierarchy: Hierarchy, mapping: Mapping) -> Iterator[Violation]:
    """Two residencies of a tensor in one layer may overlap in time only while one of them is being filled."""
    filled = zip(mapping.residencies, mapping.fill_boundaries, strict=True)
    spans = sorted((r.tensor, r.layer, int(fill), r.end_step) for r, fill in filled)
    last: tuple[int, int, int] = (-1, -1, -1)
    for tensor, layer, fill, end in spans:
        if last[:2] == (tensor, layer) and fill < last[2]:
            yield _broken("one-place", tensor, fill, f"{program.tensors[tensor].name} is in layer {layer} twice")
        last = (tensor, layer, max(end, last[2] if last[:2] == (tensor, layer) else end))


def _fills(program: Program, hierarchy: Hierarchy, mapping: Mapping) -> Iterator[Violation]:
    incoming: dict[int, list[Transfer]] = {}
    for x in mapping.transfers:
        if x.target != HOME:
            incoming.setdefault(x.target, []).append(x)
    for index, r in enumerate(mapping.residencies):
        tensor = program.tensors[r.tensor]
        copies = incoming.get(index, [])
        kinds = {use.kind for use in tensor.uses if use.step == r.start_step}
        what = f"{tensor.name} in {hierarchy.layers[r.layer].name} from step {r.start_step}"
        if not copies:
            if r.start_step == HELD or kinds == {UseKind.DEFINE}:
                continue
            yield _broken("fill", r.tensor, r.start_step, f"{what}: neither defined there nor copied in")
        elif sum(x.size_bytes for x in copies) != tensor.size_bytes:
            moved = sum(x.size_bytes for x in copies)
            yield _broken("fill", r.tensor, r.start_step, f"{what}: {moved} of {tensor.size_bytes} bytes copied in")
        else:
            end = 0
            for x in sorted(copies, key=lambda x: x.slice_offset_bytes):
                if x.slice_offset_bytes != end:
                    message = f"{what}: a slice begins at byte {x.slice_offset_bytes}, the one before ends at {end}"
                    yield _broken("fill", r.tensor, x.start_after, message)
                end = x.slice_offset_bytes + x.size_bytes
        for loop in program.loops:
            inside = {loop.contains_boundary(x.done_before) for x in copies}
            if loop.trip_count > 1 and len(inside) > 1:
                message = f"{what}: some slices are copied inside {loop}, others outside"
                yield _broken("loop", r.tensor, r.start_step, message)
        for conditional in program.conditionals:
            if len({conditional.branch_at(x.done_before) for x in copies}) > 1:
                message = f"{what}: some slices are copied inside one branch of {conditional}, others elsewhere"
                yield _broken("branch", r.tensor, r.start_step, message)


def _transfers(program: Program, hierarchy: Hierarchy, mapping: Mapping) -> Iterator[Violation]:
    for x in mapping.transfers:
        name = program.tensors[x.tensor].name
        issue, due = x.start_after + 1, x.done_before
        if x.target != HOME:
            r = mapping.residencies[x.target]
            if r.start_step > issue or r.end_step < due:
                message = (
                    f"{name}: copy in flight over [{issue}, {due}), space only over [{r.start_step}, {r.end_step})"
                )
                yield _broken("transfer", x.tensor, x.start_after, message)
        if x.source != HOME:
            r = mapping.residencies[x.source]
            if (r.end_step < max(due, issue + 1) and issue < program.num_steps) or r.start_step >= issue:
                message = (
                    f"{name}: copy out over [{issue}, {due}), its source lives over [{r.start_step}, {r.end_step})"
                )
                yield _broken("transfer", x.tensor, x.start_after, message)
        if x.target == HOME and x.size_bytes != program.tensors[x.tensor].size_bytes:
            yield _broken("transfer", x.tensor, x.start_after, f"{name}: writes back {x.size_bytes} bytes, not all")
        for loop in program.loops:
            if loop.trip_count > 1 and loop.contains_boundary(issue) != loop.contains_boundary(due):
                message = (
                    f"{name}: copy from after step {x.start_after} to before step {due} crosses the edge of {loop}"
                )
                yield _broken("loop", x.tensor, x.start_after, message)
        for conditional in program.conditionals:
            branches = {conditional.branch_at(issue), conditional.branch_at(due)}
            if len(branches) > 1 or -1 in branches:
                message = f"{name}: copy over [{issue}, {due}) is not inside one branch of {conditional}, nor around it"
                yield _broken("branch", x.tensor, x.start_after, message)


def _in_flight(program: Program, hierarchy: Hierarchy, mapping: Mapping) -> Iterator[Violation]:
    changes: dict[tuple[int, bool], dict[int, int]] = {}
    for x in mapping.transfers:
        source, target = (0 if p == HOME else mapping.residencies[p].layer for p in (x.source, x.target))
        counts = changes.setdefault((hierarchy.link_index(source, target), target < source), {})
        counts[x.start_after + 1] = counts.get(x.start_after + 1, 0) + 1
        counts[x.done_before] = counts.get(x.done_before, 0) - 1
    for (link, _), counts in changes.items():
        running = 0
        for step in sorted(counts):
            running += counts[step]
            if running > hierarchy.links[link].max_in_flight:
                message = f"{running} copies in flight on {hierarchy.links[link].name}"
                yield _broken("in-flight", -1, step, f"{message}, at most {hierarchy.links[link].max_in_flight}")


def _hoists(program: Program, hierarchy: Hierarchy, mapping: Mapping) -> Iterator[Violation]:
    for index in sorted({x.target for x in mapping.transfers if x.target != HOME}):
        r = mapping.residencies[index]
        tensor = program.tensors[r.tensor]
        fill = mapping.fill_boundaries[index]
        if tensor.hoistable:
            continue
        for loop in program.loops:
            inside = [u.step for u in tensor.uses if loop.start_step <= u.step < min(loop.end_step, r.end_step)]
            if loop.trip_count > 1 and fill <= loop.start_step and inside:
                yield _broken("hoist", r.tensor, loop.start_step, f"{tensor.name} may not be copied in before {loop}")


def _held(program: Program, hierarchy: Hierarchy, mapping: Mapping) -> Iterator[Violation]:
    early = {x.target for x in mapping.transfers if x.done_before < program.num_steps}
    for r in mapping.residencies:
        if r.start_step != HELD:
            continue
        tensor = program.tensors[r.tensor]
        if not (tensor.holdable and tensor.is_parameter):
            yield _broken("held", r.tensor, -1, f"{tensor.name} may not be held from one run to the next")
        elif r.end_step == program.num_steps and r.layer < hierarchy.num_layers - 1:
            continue  # it stays for ever: only the fastest layer is given to others between two runs
        elif not any(_reloads(program, mapping, r, x) for x in mapping.transfers if x.target not in early):
            yield _broken("held", r.tensor, -1, f"{tensor.name} is held at the start and not loaded again by the end")


def _reloads(program: Program, mapping: Mapping, held: Residency, x: Transfer) -> bool:
    if x.target == HOME or x.done_before != program.num_steps or x.tensor != held.tensor:
        return False
    r = mapping.residencies[x.target]
    return (r.layer, r.offset_bytes, r.end_step) == (held.layer, held.offset_bytes, program.num_steps)


def _staleness(program: Program, hierarchy: Hierarchy, mapping: Mapping) -> Iterator[Violation]:
    for tensor, step, message in stale_uses(program, hierarchy, mapping):
        yield _broken("stale", tensor, step, f"{program.tensors[tensor].name}: {message}")


def _broken(rule: str, tensor: int, step: int, message: str) -> Violation:
    return Violation(rule=rule, tensor=tensor, step=step, message=message)
