"""Addresses for timed stays, and what to give up where they do not fit."""

from collections.abc import Callable, Iterator

from mallocgame.baselines.milp.stays import Stay
from mallocgame.baselines.milp.timing import Timed, timed_best, to_mapping
from mallocgame.baselines.packing import pack
from mallocgame.baselines.packing.buffers import Buffer, Gap
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping
from mallocgame.program import Program

MAX_REPAIRS = 40
FLIPS = 3  # how often slices whose tensor finds no place change sides: the end of the tensor first, not its beginning


def place(
    program: Program,
    hierarchy: Hierarchy,
    chosen: list[Stay],
    *,
    seconds: float,
    seed: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[Mapping, int] | None:
    """Return a valid mapping of as many of the stays as can be packed in about ``seconds``, and how many were given up.

    None where ``stop`` says so first.

    Stays that the best packing leaves above the capacity go first; then whatever the validator still objects to.
    """
    kept = list(chosen)
    attempts = 3
    for _ in range(MAX_REPAIRS):
        if stop():
            return None
        timed = timed_best(program, hierarchy, kept, stop=stop)
        offsets, high = _offsets(program, hierarchy, timed, seconds / attempts, seed)
        for _ in range(FLIPS):
            flipped = [i for i in high if timed[i].slices is not None]
            if not flipped or stop():
                break
            timed = [item.flipped() if i in flipped else item for i, item in enumerate(timed)]
            offsets, high = _offsets(program, hierarchy, timed, seconds / attempts, seed)
        if high:
            kept = [stay for i, stay in enumerate(kept) if i not in high]
            continue
        mapping = to_mapping(program, timed, offsets)
        wrong = validate(program, hierarchy, mapping)
        if not wrong:
            return mapping, len(chosen) - len(kept)
        tensors = {violation.tensor for violation in wrong if violation.tensor >= 0}
        if not tensors:  # too many copies in flight: the least of them goes
            step = wrong[0].step
            flying = [t for t in timed if t.fill is not None and t.fill[0] <= step < max(t.fill[1], t.fill[0] + 1)]
            flying = flying or timed
            tensors = {min(flying, key=lambda t: t.stay.worth).stay.tensor}
        kept = [stay for stay in kept if stay.tensor not in tensors]
    return Mapping(), len(chosen)


def _offsets(
    program: Program, hierarchy: Hierarchy, timed: list[Timed], seconds: float, seed: int
) -> tuple[list[int], set[int]]:
    """Pack; return the offsets and the stays that end above the capacity."""
    layer = hierarchy.layers[1]
    groups = _groups(program, timed)
    buffers = []
    for number, members in enumerate(groups):
        buffers.append(
            Buffer(
                name=str(number),
                lower=min(max(timed[i].start, 0) for i in members),
                upper=max(timed[i].end for i in members),
                size_bytes=program.tensors[timed[members[0]].stay.tensor].size_bytes,
                alignment_bytes=layer.alignment_bytes,
                gaps=tuple(_gaps(program, [timed[i] for i in members])),
            )
        )
    if not buffers:
        return [], set()
    result = pack(buffers, layer.capacity_bytes, seconds=seconds, seed=seed)
    offsets = [0] * len(timed)
    high: set[int] = set()
    for offset, members, buffer in zip(result.offsets.tolist(), groups, buffers, strict=True):
        for i in members:
            offsets[i] = int(offset)
            if offset + buffer.size_bytes > layer.capacity_bytes:
                high.add(i)
    return offsets, high


def _gaps(program: Program, members: list[Timed]) -> Iterator[Gap]:
    """Yield when stays at one address are not there, and when only the earlier slice of a copy is."""
    ordered = sorted(members, key=lambda item: item.start)
    until = max(ordered[0].start, 0)
    for item in ordered:
        start = max(item.start, 0)
        if start > until:
            yield Gap(lower=until, upper=start)
        if item.slices is not None and start >= until:
            window = item.slices.window(program.tensors[item.stay.tensor].size_bytes)
            yield Gap(lower=start, upper=item.slices.late, window=window)
        until = max(until, item.end)


def _groups(program: Program, timed: list[Timed]) -> list[list[int]]:
    """Return the stays that share one address: what is held and what reloads it, and what a loop carries round."""
    group = list(range(len(timed)))
    by_tensor: dict[int, list[int]] = {}
    for i, item in enumerate(timed):
        by_tensor.setdefault(item.stay.tensor, []).append(i)
    for members in by_tensor.values():
        for i in members:
            for j in members:
                if i != j and (_reloads(timed[i], timed[j]) or _carries(program, timed[i], timed[j])):
                    old, new = group[j], group[i]
                    for k in members:
                        group[k] = new if group[k] == old else group[k]
    found: dict[int, list[int]] = {}
    for i, root in enumerate(group):
        found.setdefault(root, []).append(i)
    return list(found.values())


def _reloads(held: Timed, other: Timed) -> bool:
    return held.stay.start == -1 and other.stay.is_reload


def _carries(program: Program, first: Timed, last: Timed) -> bool:
    """Whether one stay spans a loop's start and the other its end, so that the next iteration finds it in place."""
    return any(
        loop.trip_count > 1
        and first.start < loop.start_step < first.end
        and last.start < loop.end_step <= last.end
        and last.start >= first.end
        for loop in program.loops
    )
