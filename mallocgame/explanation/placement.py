"""A mapping by tensor: taken apart, changed tensor by tensor, and put together again."""

from collections.abc import Mapping as Table
from dataclasses import dataclass, replace
from operator import attrgetter

from mallocgame.mapping import HOME, Mapping, Residency, Transfer


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlacement:
    """What a mapping says of one tensor; transfers count its residencies from 0."""

    residencies: tuple[Residency, ...] = ()
    transfers: tuple[Transfer, ...] = ()

    def without(self, number: int) -> "TensorPlacement":
        """Return it without one residency, the copies into it and out of it."""
        to = {i: i - (i > number) for i in range(len(self.residencies))} | {HOME: HOME}
        kept = [x for x in self.transfers if number not in (x.source, x.target)]
        return TensorPlacement(
            residencies=(*self.residencies[:number], *self.residencies[number + 1 :]),
            transfers=tuple(replace(x, source=to[x.source], target=to[x.target]) for x in kept),
        )


Placements = dict[int, TensorPlacement]


def take_apart(mapping: Mapping) -> Placements:
    """Return a mapping by tensor."""
    places: dict[int, list[Residency]] = {}
    local: list[int] = []
    for r in mapping.residencies:
        rows = places.setdefault(r.tensor, [])
        local.append(len(rows))
        rows.append(r)
    moves: dict[int, list[Transfer]] = {}
    for x in mapping.transfers:
        source = x.source if x.source < 0 else local[x.source]
        target = x.target if x.target < 0 else local[x.target]
        moves.setdefault(x.tensor, []).append(replace(x, source=source, target=target))
    return {
        t: TensorPlacement(residencies=tuple(rows), transfers=tuple(moves.get(t, ()))) for t, rows in places.items()
    }


def put_together(placements: Table[int, TensorPlacement]) -> Mapping:
    """Return the mapping of placements."""
    residencies: list[Residency] = []
    transfers: list[Transfer] = []
    for placement in placements.values():
        first = len(residencies)
        residencies += placement.residencies
        transfers += [
            Transfer(  # much faster than dataclasses.replace
                tensor=x.tensor,
                source=x.source if x.source < 0 else first + x.source,
                target=x.target if x.target < 0 else first + x.target,
                start_after=x.start_after,
                done_before=x.done_before,
                size_bytes=x.size_bytes,
                slice_offset_bytes=x.slice_offset_bytes,
            )
            for x in placement.transfers
        ]
    transfers.sort(key=attrgetter("start_after", "done_before"))
    return Mapping(residencies=tuple(residencies), transfers=tuple(transfers))
