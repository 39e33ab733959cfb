"""The pieces that annealing puts together: for each tensor, the residencies that are consistent on their own.

A candidate serves a run of consecutive uses from one fast layer. It begins with the tensor's definition, with a copy
from its base layer, or is held from the run before; if it writes and the base is needed afterwards, it ends with a
write-back. Each candidate leaves its base current whenever it does not serve the tensor itself. The base is layer 0, or
a middle layer in which another candidate holds the tensor all the while (``nest``). So any set of candidates that are
disjoint in time (per tensor and layer) and in space makes a valid mapping. Around loops that is checked with the
validator's abstract interpretation; elsewhere it holds by construction.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.anneal.assembly import Candidate, Placed, assemble
from mallocgame.baselines.anneal.state import BORN, COPIED, FOREVER, HELD_OVER
from mallocgame.explanation.reachable import EarliestCopies, Reach, copy_back_due, elapsed_before, waits
from mallocgame.hierarchy import Hierarchy, MemoryLayer
from mallocgame.judge.coherence import stale_uses
from mallocgame.program import Program, Tensor, UseKind
from mallocgame.regions import Loop

I64 = npt.NDArray[np.int64]

MAX_RUN = 12  # uses in a run, beyond which only whole suffixes of the tensor's life are tried


@dataclass(frozen=True, slots=True)
class _Group:
    """All uses of one tensor in one step."""

    step: int
    first: int
    last: int
    reads: bool
    writes: bool
    home_only: bool


def candidates(program: Program, hierarchy: Hierarchy, *, stop: Callable[[], bool] = lambda: False) -> list[Candidate]:
    """Return every candidate of every movable tensor that fits its layer, ordered by tensor.

    Tensors that move many bytes come first, so that what is left out where ``stop`` says so is worth least.
    """
    found: list[list[Candidate]] = [[] for _ in program.tensors]
    plain = not any(loop.trip_count > 1 for loop in program.loops)
    moved = np.zeros(len(program.tensors))
    np.add.at(moved, program.uses.tensor, program.uses.bytes * program.trip_counts[program.uses.step])
    for index in np.argsort(-moved, kind="stable").tolist():
        tensor = program.tensors[index]
        layers = [k for k in range(1, hierarchy.num_layers) if _fits(tensor.size_bytes, hierarchy.layers[k])]
        if not tensor.movable or not tensor.uses or not layers:
            continue
        if stop():
            break
        groups = _groups(program, index, tensor)
        of_tensor = _of_tensor if program.loops else _without_loops
        own = of_tensor(program, index, tensor, groups)
        if not plain and hierarchy.num_layers == 2:
            own = _with_carried(program, tensor, groups, own)
        for candidate in own:
            if plain or _is_consistent(program, hierarchy, candidate):
                bases = [0, *layers] if plain or _may_lean(program, tensor, candidate) else [0]
                pairs = ((base, layer) for layer in layers for base in bases if base < layer)
                found[index].extend(candidate._replace(layer=layer, base=base) for base, layer in pairs)
        found[index].extend(
            _for_ever(program, index, tensor, groups, [k for k in layers if k < hierarchy.num_layers - 1])
        )
    return [candidate for own in found for candidate in own]


def _may_lean(program: Program, tensor: Tensor, candidate: Candidate) -> bool:
    """Whether a middle layer may stand for layer 0: what may not be hoisted may not come into it before a loop."""
    if tensor.hoistable or candidate.back_issue < 0:
        return True
    return not any(
        loop.start_step <= use.step < loop.end_step
        for loop in program.loops
        if loop.trip_count > 1
        for use in tensor.uses
    )


def _with_carried(
    program: Program, tensor: Tensor, groups: list[_Group], own: Iterable[Candidate]
) -> Iterator[Candidate]:
    """Yield candidates, and after each the same with a copy at a loop's end, so that the next iteration finds it.

    It begins before the loop and ends inside; from there to the copy its place is others'. What the loop writes is not
    tried: it would go back and come again in each iteration.
    """
    repeating = [loop for loop in program.loops if loop.trip_count > 1] if tensor.hoistable else []
    for candidate in own:
        yield candidate
        for loop in repeating:
            begun = candidate.due if candidate.kind == COPIED else candidate.start + 1
            is_over = candidate.kind == HELD_OVER or not begun <= loop.start_step < candidate.end
            inside = [g for g in groups if loop.start_step <= g.step < loop.end_step]
            last = _last_boundary(program, loop)
            if is_over or candidate.end > last or any(g.writes or g.step >= last for g in inside):
                continue
            back = candidate.back_issue, candidate.back_due
            written = [g.step + 1 for g in groups if candidate.first_use <= g.first <= candidate.last_use and g.writes]
            if written and back[0] < 0:
                back = written[-1], loop.start_step
            again = candidate._replace(back_issue=back[0], back_due=back[1], sliceable=0)
            yield again._replace(again_start=candidate.end, again_due=last)


def _last_boundary(program: Program, loop: Loop) -> int:
    """Return the last boundary of a loop's body that is in no loop inside it; its start where there is none."""
    for boundary in range(loop.end_step - 1, loop.start_step, -1):
        if program.loop_context[boundary] == program.loop_context[loop.start_step + 1]:
            return boundary
    return loop.start_step


def _for_ever(
    program: Program, index: int, tensor: Tensor, groups: list[_Group], layers: list[int]
) -> Iterator[Candidate]:
    """Yield what is never loaded: a parameter that nothing writes may stay in a middle layer from run to run."""
    if not tensor.holdable or any(g.writes or g.home_only for g in groups):
        return
    end = program.num_steps
    for layer in layers:
        yield Candidate(
            tensor=index,
            layer=layer,
            kind=FOREVER,
            first_use=groups[0].first,
            last_use=groups[-1].last,
            start=0,
            latest=0,
            due=0,
            end=end,
            back_issue=-1,
            back_due=-1,
        )


def as_compiler_does(
    program: Program, hierarchy: Hierarchy, pieces: Iterable[Candidate], reach: Reach
) -> Iterator[Candidate]:
    """Yield what XLA can be brought to do, with the copies back timed as it times them.

    It takes no word about a copy back (``explanation.reachable``), about slices, nor about what is held from run to
    run, or comes again for a loop's next iteration; nothing waits in fast memory too long from use to use, nor is
    written there only to be copied back. What it was seen not to do (``reach``) is left out.
    """
    before, wait, earliest = elapsed_before(program, hierarchy), waits(program, hierarchy), EarliestCopies.of(program)
    step = program.uses.step
    for whole in pieces:
        start = max(whole.start, earliest.boundary(whole.tensor, whole.due)) if whole.kind == COPIED else whole.start
        if start > whole.latest:
            continue
        piece = whole._replace(sliceable=0, start=start)
        beginning = (piece.tensor, piece.kind == COPIED, piece.first_use)
        if piece.kind in (HELD_OVER, FOREVER) or piece.again_due >= 0 or not reach.allows(beginning, piece.last_use):
            continue
        if wait[piece.first_use + 1 : piece.last_use + 1].max(initial=0.0) > reach.max_wait:
            continue
        if piece.back_issue < 0:
            yield piece
            continue
        if piece.kind == BORN and step[piece.first_use] == step[piece.last_use]:
            continue
        seconds = program.tensors[piece.tensor].size_bytes / (
            hierarchy.links[hierarchy.link_index(0, piece.layer)].bytes_per_second
        )
        due = reach.copy_back.get(
            (piece.tensor, piece.back_issue, piece.last_use),
            copy_back_due(before, seconds, piece.back_issue, int(step[piece.last_use])),
        )
        yield piece._replace(back_due=max(min(piece.back_due, due), piece.back_issue))


def _fits(size_bytes: int, layer: MemoryLayer) -> bool:
    """Whether a tensor fits in whole units of alignment, which is how the kernel places it."""
    return -(-size_bytes // layer.alignment_bytes) <= layer.capacity_bytes // layer.alignment_bytes


def _groups(program: Program, index: int, tensor: Tensor) -> list[_Group]:
    groups: list[_Group] = []
    row = int(program.uses.first[index])
    for use in tensor.uses:
        reads, writes = use.kind != UseKind.DEFINE, use.kind != UseKind.READ
        if groups and groups[-1].step == use.step:
            last = groups.pop()
            home = use.home_only or last.home_only
            groups.append(_Group(use.step, last.first, row, reads or last.reads, writes or last.writes, home))
        else:
            groups.append(_Group(use.step, row, row, reads, writes, use.home_only))
        row += 1
    return groups


def _of_tensor(program: Program, index: int, tensor: Tensor, groups: list[_Group]) -> Iterator[Candidate]:
    for lo in range(len(groups)):
        for hi in range(lo, len(groups)):
            if groups[hi].home_only:
                break
            if hi - lo < MAX_RUN or hi == len(groups) - 1:
                limit = groups[hi + 1].step if hi + 1 < len(groups) else program.num_steps
                for entry in _entries(program, index, tensor, groups, lo):
                    whole = entry._replace(last_use=groups[hi].last)
                    for candidate in _exits(program, tensor, groups, lo, hi, whole):
                        if _last_step(candidate) <= limit:  # else it would serve the next use too
                            yield candidate._replace(back_due=min(candidate.back_due, limit))


def _without_loops(program: Program, index: int, tensor: Tensor, groups: list[_Group]) -> Iterator[Candidate]:
    """Yield what ``_of_tensor`` does, in a fraction of the time, where there are no loops."""
    end_step, written = program.num_steps, 0
    for lo, first in enumerate(groups):
        kinds = [(BORN, first.step)] if not first.reads else []
        if first.reads and (written or tensor.is_parameter):
            kinds = [(COPIED, written)] + ([(HELD_OVER, first.step)] if tensor.holdable and lo == 0 else [])
        last_write = 0
        for hi in range(lo, len(groups) if kinds else lo):
            group, following = groups[hi], groups[hi + 1] if hi + 1 < len(groups) else None
            if group.home_only:
                break
            last_write = group.step + 1 if group.writes else last_write
            if hi - lo >= MAX_RUN and following is not None:
                continue
            limit = following.step if following is not None else end_step
            is_needed = following.reads if following is not None else tensor.is_output
            end = group.step + 1
            back = (last_write, limit) if last_write and is_needed else (-1, -1)
            for kind, start in kinds:
                uses = (first.first, group.last)
                if kind == HELD_OVER:
                    if end < end_step and not any(g.writes for g in groups):
                        yield Candidate(index, 1, kind, *uses, end, end_step - 1, end_step, end, -1, -1)
                elif back[1] < 0 or max(end, back[0] + 1) <= limit:
                    yield Candidate(index, 1, kind, *uses, start, first.step, first.step, max(end, back[0]), *back)
        written = first.step + 1 if first.writes else written


def _last_step(candidate: Candidate) -> int:
    return max(candidate.end, candidate.back_issue + 1 if candidate.back_issue >= 0 else 0)


def _entries(program: Program, index: int, tensor: Tensor, groups: list[_Group], lo: int) -> Iterator[Candidate]:
    group = groups[lo]
    base = Candidate(
        tensor=index,
        layer=1,
        kind=BORN,
        first_use=group.first,
        last_use=group.last,
        start=group.step,
        latest=group.step,
        due=group.step,
        end=group.step + 1,
        back_issue=-1,
        back_due=-1,
    )
    if not group.reads:
        yield base
        return
    writes = [g.step + 1 for g in groups[:lo] if g.writes]
    earliest = max(writes, default=0)
    if not writes and not tensor.is_parameter:
        return
    yield base._replace(kind=COPIED, start=earliest)
    if tensor.hoistable:
        served = max((g.step for g in groups[:lo] if not g.home_only), default=-1)  # a copy due by then serves it, too
        for loop in program.loops:
            is_first = max(earliest, served + 1) <= loop.start_step
            if loop.contains_boundary(group.step) and is_first and loop.trip_count > 1:
                yield base._replace(kind=COPIED, start=earliest, latest=loop.start_step, due=loop.start_step)
    if tensor.holdable and lo == 0:
        yield base._replace(kind=HELD_OVER, due=program.num_steps)


def _exits(
    program: Program, tensor: Tensor, groups: list[_Group], lo: int, hi: int, entry: Candidate
) -> Iterator[Candidate]:
    ends = [groups[hi].step + 1]
    for loop in program.loops:
        if loop.trip_count > 1 and loop.end_step > ends[0]:
            inside = loop.start_step <= groups[hi].step < loop.end_step
            entered = entry.start <= loop.start_step < groups[hi].step or entry.kind == HELD_OVER
            if inside and (entered or loop.start_step <= entry.start):
                ends.append(loop.end_step)
    for end in ends:
        if entry.kind == HELD_OVER:
            late = [b for b in range(end, program.num_steps) if _same_loops(program, b, program.num_steps)]
            if late and not any(g.writes for g in groups):
                yield entry._replace(start=end, latest=late[-1], end=end)
            continue
        written = [g.step for g in groups[lo : hi + 1] if g.writes]
        if not written:
            yield entry._replace(end=end)
            continue
        for issue, due in _write_backs(program, tensor, groups, hi, written[-1] + 1):
            if due < 0:
                yield entry._replace(end=end)
            elif due >= issue:
                yield entry._replace(end=max(end, issue), back_issue=issue, back_due=due)


def _write_backs(
    program: Program, tensor: Tensor, groups: list[_Group], hi: int, issue: int
) -> Iterator[tuple[int, int]]:
    """Yield (boundary of issue, latest boundary of completion) of what may follow a run that writes; -1: nothing."""
    following = groups[hi + 1] if hi + 1 < len(groups) else None
    if following is not None:
        due = following.step if following.reads else -1
    else:
        due = program.num_steps if tensor.is_output else -1
    yield issue, due
    for loop in program.loops:
        if loop.trip_count > 1 and loop.contains_boundary(issue) and (due < 0 or due >= loop.end_step):
            yield issue, loop.end_step - 1  # in every iteration
            if due >= loop.end_step:
                yield loop.end_step, due  # once, after the last


def _is_consistent(program: Program, hierarchy: Hierarchy, candidate: Candidate) -> bool:
    """Whether the candidate alone, with the least generous timing, is coherent round every loop."""
    issue = candidate.latest
    due = candidate.back_due
    if due >= 0:
        same = [b for b in range(candidate.back_issue, due + 1) if _same_loops(program, candidate.back_issue, b)]
        if not same:
            return False
        due = same[0]
    mapping = assemble(program, [Placed(candidate, issue, due, 0, late=candidate.again_due)])
    if any(not _same_loops(program, x.start_after + 1, x.done_before) for x in mapping.transfers):
        return False
    if not program.tensors[candidate.tensor].hoistable and candidate.kind == COPIED:
        for loop in program.loops:
            if candidate.due <= loop.start_step < candidate.end and loop.trip_count > 1:
                uses = program.uses.step[candidate.first_use : candidate.last_use + 1]
                if ((uses >= loop.start_step) & (uses < loop.end_step)).any():
                    return False
    return not any(True for _ in stale_uses(program, hierarchy, mapping))


def _same_loops(program: Program, a: int, b: int) -> bool:
    return all(loop.contains_boundary(a) == loop.contains_boundary(b) for loop in program.loops if loop.trip_count > 1)
