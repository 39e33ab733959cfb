"""XLA's own answer, as a Mapping: pinned, copied, sliced and evicted allocations, and the cross-program prefetch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mallocgame.errors import TraceError
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.validation import validate
from mallocgame.mapping import HELD, HOME, Mapping, Residency, Transfer
from mallocgame.program import Program, UseKind
from mallocgame.regions import Conditional
from mallocgame.workloads.xla.program import XlaProgram
from mallocgame.workloads.xla.records import AllocationRow, Slice, XlaLog
from mallocgame.workloads.xla.reschedule import with_moves

MAX_LEFT_OUT = 4  # rounds


@dataclass(slots=True, kw_only=True)
class _Piece:
    """A residency in the making."""

    tensor: int
    offset_bytes: int
    start_step: int
    end_step: int
    born: bool  # begins with a definition
    copies: list[AllocationRow]
    replaces: bool = False


def build_mapping(log: XlaLog, built: XlaProgram) -> Mapping:
    """Return XLA's mapping of ``built.program``.

    A value that stays in place from one of XLA's intervals to the next (into a loop's body, through an in-place
    update) is one residency. The cross-program prefetch is held from the run before where XLA loads it again by the
    end (it gave the space to others in between); otherwise it is copied at the start of each run, as XLA charges it.

    Raises:
        TraceError: an allocation of a buffer that is no tensor, or an eviction of something that is not there.
    """
    log = with_moves(log, built.moves)
    log = replace(log, allocations=[_issued_after_its_copy(row, built) for row in log.allocations])
    pieces: list[_Piece] = []
    evictions: list[tuple[int, AllocationRow]] = []
    listed = {(a.offset_bytes, a.start_time, a.end_time) for a in log.allocations}
    missing = log.intervals - listed - log.mirrored
    if missing:
        raise TraceError(log.path, None, f"no allocation of the interval {min(missing)}")
    again = [a.defined_at for a in log.allocations if a.cross_program and a.start_after >= 0]
    reloaded = {built.tensor_of.get(built.aliases.find((place.instruction, place.index))) for place in again}
    for row in log.allocations:
        tensor = built.tensor_of.get(built.aliases.find((row.defined_at.instruction, row.defined_at.index)))
        if tensor is None:
            if row.is_copy:
                raise TraceError(log.path, row.line, f"a copy of {row.defined_at.instruction}, which is no tensor")
            continue
        if row.offset_bytes is None and row.replaces:  # never one that is transferred
            continue  # from slow memory to slow memory: here the instruction does it
        if row.offset_bytes is None:
            evictions.append((tensor, row))
        else:
            held = row.cross_program and row.start_after == -1 and tensor in reloaded
            pieces.append(_piece(tensor, row, built, held))
    residencies, copies = _residencies(_join(pieces, built.program.conditionals), built.program)
    transfers = [*copies, *_evictions(evictions, residencies, built, log)]
    own = {name for _, name in log.schedule}  # the program's, such as copies to the host
    issued = sum(row.name.startswith(("copy-start", "slice-start")) and row.name not in own for row in log.simulated)
    staying = [row for row in log.allocations if row.replaces and row.replaces not in built.transferred]
    replaced = sum(max(len(row.slices), 1) for row in staying)
    replaced -= sum(max(len(row.slices), 1) for p in pieces if p.replaces for row in p.copies)
    others = sum(r.start_step == HELD for r in residencies) + replaced
    if issued != len(transfers) + others:
        raise TraceError(log.path, None, f"XLA's timeline issues {issued} copies, its allocations {len(transfers)}")
    order = sorted(
        range(len(transfers)), key=lambda i: (transfers[i][0].start_after, transfers[i][0].done_before, transfers[i][1])
    )
    return Mapping(residencies=tuple(residencies), transfers=tuple(transfers[i][0] for i in order))


def _issued_after_its_copy(row: AllocationRow, built: XlaProgram) -> AllocationRow:
    """Return an allocation; transfers in the place of a copy go after it (another compilation may have them before)."""
    if row.replaces not in built.transferred:
        return row
    step = next(step for step, i in enumerate(built.program.instructions) if i.name == row.replaces)
    return replace(
        row,
        start_after=max(row.start_after, step),
        done_before=max(row.done_before, step + 1),
        slices=tuple(replace(part, start_after=max(part.start_after, step)) for part in row.slices),
    )


def _piece(tensor: int, row: AllocationRow, built: XlaProgram, held: bool) -> _Piece:
    assert row.offset_bytes is not None
    uses, num_steps = built.program.tensors[tensor].uses, built.program.num_steps
    end = min(row.end_time + 1, num_steps)
    start = row.start_after + 1 if row.is_copy else row.start_time
    stays = row.replaces and row.replaces not in built.transferred
    stands = _written_by_replaced(row, built) if stays else None
    if stands is not None and stands < start and built.moves_copies:
        stands = None  # it is copied after the instruction that the pass would remove: a copy like any other
    if stands is not None:  # that instruction still writes it, where it stands
        start = stands
    copied = row.is_copy and stands is None
    born = not copied and any(u.step == start and u.kind == UseKind.DEFINE for u in uses)
    piece = _Piece(
        tensor=tensor,
        offset_bytes=row.offset_bytes,
        start_step=start,
        end_step=max(end, start + 1),
        born=born,
        copies=[row] if copied else [],
        replaces=bool(stays),
    )
    if held:
        piece.start_step = HELD
    return piece


def _written_by_replaced(row: AllocationRow, built: XlaProgram) -> int | None:
    """Return the step of the instruction that the pass would remove."""
    steps = (step for step, i in enumerate(built.program.instructions) if i.name == row.replaces)
    return next(steps, None)


def _join(pieces: list[_Piece], conditionals: Sequence[Conditional]) -> list[_Piece]:
    """Join what follows on at the same address without a copy or a definition of new contents in between."""
    joined: dict[int, list[_Piece]] = {}
    for piece in sorted(pieces, key=lambda p: p.start_step):
        rows = joined.setdefault(piece.tensor, [])
        alike = [row for row in rows if row.offset_bytes == piece.offset_bytes] if not piece.copies else []
        before = next((row for row in alike if _follows_on(row, piece)), None)
        apart = [row for row in alike if row is not before and _follows_on_branches(row, piece, conditionals)]
        before = before or (apart.pop(0) if apart else None)
        if before is None:
            rows.append(piece)
            continue
        before.end_step = max([before.end_step, piece.end_step, *(row.end_step for row in apart)])
        for row in apart:  # what stood in the branches is one with what follows the conditional
            before.start_step = min(before.start_step, row.start_step)
            before.copies += row.copies
            rows.remove(row)
    return [piece for rows in joined.values() for piece in rows]


def _follows_on(before: _Piece, piece: _Piece) -> bool:
    return before.end_step > piece.start_step or (before.end_step == piece.start_step and not piece.born)


def _follows_on_branches(before: _Piece, piece: _Piece, conditionals: Sequence[Conditional]) -> bool:
    """Whether other branches alone lie between: from a conditional's entry to a branch, from a branch to its exit.

    A branch takes over what it is given where its parameter stands, which need not be its first step.
    """
    if piece.born:
        return False
    for conditional in conditionals:
        start, end = conditional.start_step, conditional.end_step
        enters = start <= piece.start_step < end and before.start_step < start <= before.end_step
        leaves = piece.start_step == end and before.start_step < end and before.end_step > start
        if enters or leaves:
            return True
    return False


def _residencies(pieces: list[_Piece], program: Program) -> tuple[list[Residency], list[tuple[Transfer, int]]]:
    residencies: list[Residency] = []
    copies: list[tuple[Transfer, int]] = []
    for piece in pieces:
        r = Residency(
            tensor=piece.tensor,
            layer=1,
            offset_bytes=piece.offset_bytes,
            start_step=piece.start_step,
            end_step=piece.end_step,
        )
        residencies.append(r)
        for row in piece.copies:
            if piece.start_step == HELD:
                continue
            whole = Slice(start_after=row.start_after, offset_bytes=piece.offset_bytes, size_bytes=row.size_bytes or 0)
            for part in row.slices or (whole,):
                transfer = Transfer(
                    tensor=piece.tensor,
                    source=HOME,
                    target=len(residencies) - 1,
                    start_after=part.start_after,
                    done_before=_outside_loops(program, part.start_after, min(row.done_before, program.num_steps)),
                    size_bytes=part.size_bytes,
                    slice_offset_bytes=part.offset_bytes - piece.offset_bytes,
                )
                copies.append((transfer, row.line))
    return residencies, copies


def _outside_loops(program: Program, start_after: int, done_before: int) -> int:
    """Return when a copy must be complete: of a loop's operand, which XLA times inside of the loop, at its start."""
    entered = [x.start_step for x in program.loops if start_after < x.start_step and x.contains_boundary(done_before)]
    return min([done_before, *entered])


def _evictions(
    evictions: list[tuple[int, AllocationRow]], residencies: list[Residency], built: XlaProgram, log: XlaLog
) -> list[tuple[Transfer, int]]:
    found = []
    for tensor, row in evictions:
        source = [
            i
            for i, r in enumerate(residencies)
            if r.tensor == tensor
            and r.offset_bytes == row.source_offset_bytes
            and r.start_step <= row.start_after < r.end_step
        ]
        name = built.program.tensors[tensor].name
        if len(source) != 1:
            reason = f"an eviction of {name} after step {row.start_after}, where it is in {len(source)} places"
            raise TraceError(log.path, row.line, reason)
        if _is_updated_at_home(row, residencies[source[0]], built):
            residencies[source[0]] = replace(residencies[source[0]], end_step=row.done_before)
        transfer = Transfer(
            tensor=tensor,
            source=source[0],
            target=HOME,
            start_after=row.start_after,
            done_before=min(row.done_before, built.program.num_steps),
            size_bytes=built.program.tensors[tensor].size_bytes,
        )
        found.append((transfer, row.line))
    return found


def _is_updated_at_home(row: AllocationRow, place: Residency, built: XlaProgram) -> bool:
    """Whether the step for which a copy home is made changes it there, while XLA still keeps the place it left."""
    if place.end_step != row.done_before + 1 or row.done_before >= built.program.num_steps:
        return False
    name = built.program.instructions[row.done_before].name
    updated = any(
        u.step == row.done_before and u.kind == UseKind.UPDATE for u in built.program.tensors[place.tensor].uses
    )
    return updated and any(use.instruction == name for use in row.uses)


def without_broken(program: Program, hierarchy: Hierarchy, mapping: Mapping) -> tuple[Mapping, list[int]]:
    """Return XLA's mapping without the tensors whose places cannot be said of branches, and those tensors.

    XLA gives the address of what one branch has finished with to others although another branch still holds it.
    """
    left_out: list[int] = []
    for _ in range(MAX_LEFT_OUT):
        broken = {violation.tensor for violation in validate(program, hierarchy, mapping)}
        if not broken or None in broken:
            break
        left_out += sorted(index for index in broken if index is not None)
        mapping = without_tensors(mapping, set(left_out))
    return mapping, left_out


def without_tensors(mapping: Mapping, tensors: set[int]) -> Mapping:
    """Return the mapping with some tensors in layer 0 only."""
    kept = [i for i, r in enumerate(mapping.residencies) if r.tensor not in tensors]
    place = {HOME: HOME, **{old: new for new, old in enumerate(kept)}}
    transfers = tuple(
        replace(x, source=place[x.source], target=place[x.target]) for x in mapping.transfers if x.tensor not in tensors
    )
    return Mapping(residencies=tuple(mapping.residencies[i] for i in kept), transfers=transfers)
