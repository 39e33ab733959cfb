"""An oracle that shares nothing with the solvers: try every offset of every buffer."""

from collections.abc import Sequence

from hypothesis import strategies as st

from mallocgame.baselines.packing.buffers import Buffer


def fits(buffers: Sequence[Buffer], capacity: int) -> bool:
    """Tell whether any packing lies within ``capacity``, by depth-first search over all whole offsets."""

    def free(i: int, offset: int, chosen: list[int]) -> bool:
        a = buffers[i]
        return all(
            a.upper <= b.lower or b.upper <= a.lower or offset + a.size_bytes <= low or low + b.size_bytes <= offset
            for b, low in zip(buffers, chosen, strict=False)
        )

    def go(chosen: list[int]) -> bool:
        i = len(chosen)
        if i == len(buffers):
            return True
        b = buffers[i]
        choices = range(0, capacity - b.size_bytes + 1, b.alignment_bytes)
        if b.fixed_offset is not None:
            choices = range(b.fixed_offset, min(b.fixed_offset, capacity - b.size_bytes) + 1)
        return any(free(i, offset, chosen) and go([*chosen, offset]) for offset in choices)

    return go([])


def least_height(buffers: Sequence[Buffer]) -> int:
    """Return the height of the lowest packing."""
    height = 0
    while not fits(buffers, height):
        height += 1
    return height


@st.composite
def small_problems(draw: st.DrawFn, *, aligned: bool = False, fixed: bool = False) -> list[Buffer]:
    """Draw up to six buffers; fixed ones never overlap one another."""
    buffers: list[Buffer] = []
    for i in range(draw(st.integers(1, 6))):
        lower = draw(st.integers(0, 5))
        upper = draw(st.integers(lower + 1, 6))
        size = draw(st.integers(1, 5))
        alignment = draw(st.sampled_from([1, 2, 3, 4])) if aligned else 1
        offset = None
        if fixed and draw(st.integers(0, 2)) == 0:
            offset = alignment * draw(st.integers(0, 8 // alignment))
            if any(
                b.fixed_offset is not None
                and b.lower < upper
                and lower < b.upper
                and b.fixed_offset < offset + size
                and offset < b.fixed_offset + b.size_bytes
                for b in buffers
            ):
                offset = None
        buffers.append(
            Buffer(
                name=f"b{i}", lower=lower, upper=upper, size_bytes=size, alignment_bytes=alignment, fixed_offset=offset
            )
        )
    return buffers
