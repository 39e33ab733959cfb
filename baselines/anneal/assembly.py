"""From chosen candidates to a mapping: residencies, copies in one piece or two, and what leans on what."""

from dataclasses import dataclass, field
from typing import NamedTuple

from mallocgame.baselines.anneal.copies import LONGEST
from mallocgame.baselines.anneal.state import COPIED, FOREVER, HELD_OVER
from mallocgame.mapping import HELD, HOME, Mapping, Residency, Transfer
from mallocgame.program import Program


class Candidate(NamedTuple):
    """One residency with its copies; boundaries are moments before steps, as in docs/judge.md."""

    tensor: int
    layer: int
    kind: int  # BORN, COPIED, HELD_OVER or FOREVER
    first_use: int  # row of Program.uses
    last_use: int  # inclusive
    start: int  # BORN: the defining step; COPIED: the earliest boundary of issue; HELD_OVER: earliest reload
    latest: int  # the latest boundary of issue (COPIED) or reload (HELD_OVER)
    due: int  # COPIED: where the copy must be complete; HELD_OVER: T
    end: int  # the residency lasts at least this long (exclusive step)
    back_issue: int  # boundary from which the write-back runs; -1: none is needed
    back_due: int  # the latest boundary at which it must be complete
    base: int = 0  # the layer it is copied from and written back to
    sliceable: int = 1  # 0: its copy may not be made in two slices
    again_start: int = -1  # it is copied once more in every iteration of a loop that it begins before, for the next
    again_due: int = -1  # one, from this boundary on, complete by that one, the last of the body; -1: no


class Placed(NamedTuple):
    """A candidate with its times, its offset, and its slices (``state.Choice``)."""

    piece: Candidate
    issue: int
    back: int
    offset: int
    cut: int = 0
    is_low: int = 0
    late: int = -1  # of what is copied again for the next iteration: the issue of that


@dataclass(slots=True)
class _Home:
    """The residencies of one candidate: another one from each write-back into it on, all at one offset."""

    placed: Placed
    outer: "_Home | None" = None
    inner: list["_Home"] = field(default_factory=list)  # what writes back into it, in order of time
    segments: list[tuple[int, int]] = field(default_factory=list)  # (first step, residency)
    reload: int = -1

    @property
    def back_issue(self) -> int:
        """The boundary at which it is written back: after what is written back into it."""
        after = self.placed.piece.back_issue
        for other in self.inner:
            issue, back = other.back_issue, other.placed.back
            if back >= after:
                after = back + (issue == back)
        return after

    def at(self, boundary: int) -> int:
        """Return the residency that holds the contents for a copy issued at a boundary."""
        return next(index for first, index in reversed(self.segments) if first < boundary)


def assemble(program: Program, chosen: list[Placed]) -> Mapping:
    """Return the mapping made of candidates with their times, offsets and slices, in the order of ``chosen``."""
    homes = [_Home(placed) for placed in chosen]
    _lean(homes)
    residencies: list[Residency] = []
    for home in homes:
        _add_residencies(program, home, residencies)
    transfers: list[Transfer] = []
    for home in homes:
        _add_transfers(program, home, transfers)
    transfers.sort(key=lambda x: (x.start_after, min(x.done_before - x.start_after - 1, LONGEST)))  # as the kernel does
    return Mapping(residencies=tuple(residencies), transfers=tuple(transfers))


def _lean(homes: list[_Home]) -> None:
    """Find what each candidate leans on."""
    of_tensor: dict[int, list[_Home]] = {}
    for home in homes:
        of_tensor.setdefault(home.placed.piece.tensor, []).append(home)
    for home in homes:
        piece = home.placed.piece
        if piece.base == 0:
            continue
        home.outer = next(
            other
            for other in of_tensor[piece.tensor]
            if other.placed.piece.layer == piece.base
            and other.placed.piece.first_use <= piece.first_use
            and piece.last_use <= other.placed.piece.last_use
        )
        if piece.back_issue >= 0:
            home.outer.inner.append(home)
    for home in homes:
        home.inner.sort(key=lambda other: other.back_issue)


def _add_residencies(program: Program, home: _Home, residencies: list[Residency]) -> None:
    c, num_steps = home.placed.piece, program.num_steps
    start = {COPIED: home.placed.issue, HELD_OVER: HELD, FOREVER: HELD}.get(c.kind, c.start)
    end = c.end
    if c.back_issue >= 0:
        end = min(max(c.end, home.placed.back, c.back_issue + 1), num_steps)
    starts = [start, *(other.back_issue for other in home.inner)]
    for first, last in zip(starts, [*starts[1:], end], strict=True):
        home.segments.append((first, len(residencies)))
        residencies.append(
            Residency(tensor=c.tensor, layer=c.layer, offset_bytes=home.placed.offset, start_step=first, end_step=last)
        )
    if c.kind == HELD_OVER or c.again_due >= 0:
        home.reload = len(residencies)
        again = (home.placed.issue, num_steps) if c.kind == HELD_OVER else (home.placed.late, c.again_due + 1)
        residencies.append(
            Residency(
                tensor=c.tensor,
                layer=c.layer,
                offset_bytes=home.placed.offset,
                start_step=again[0],
                end_step=again[1],
            )
        )


def _add_transfers(program: Program, home: _Home, transfers: list[Transfer]) -> None:
    placed = home.placed
    c, size = placed.piece, program.tensors[placed.piece.tensor].size_bytes

    def add(source: int, target: int, span: tuple[int, int], first: int = 0, last: int = size) -> None:
        transfers.append(
            Transfer(
                tensor=c.tensor,
                source=source,
                target=target,
                start_after=span[0] - 1,
                done_before=span[1],
                size_bytes=last - first,
                slice_offset_bytes=first,
            )
        )

    def base_at(boundary: int) -> int:
        return HOME if home.outer is None else home.outer.at(boundary)

    if c.kind == HELD_OVER:
        add(base_at(placed.issue), home.reload, (placed.issue, program.num_steps))
    elif c.kind == COPIED:
        target, issue, late = home.segments[0][1], placed.issue, placed.late
        if placed.cut > 0:
            low, high = (late, issue) if placed.is_low else (issue, late)
            slices = [(low, 0, placed.cut), (high, placed.cut, size)]
            for begin, first, last in sorted(slices):  # the earlier one first, as the kernel counts
                add(base_at(begin), target, (begin, c.due), first, last)
        else:
            add(base_at(issue), target, (issue, c.due))
    if c.again_due >= 0:
        add(HOME, home.reload, (placed.late, c.again_due))
    if c.back_issue >= 0:
        issue = home.back_issue
        target = HOME
        if home.outer is not None:
            target = next(index for first, index in home.outer.segments if first == issue)
        add(home.at(issue), target, (issue, placed.back))
