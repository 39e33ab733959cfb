"""A set of plans that fit together: addresses by best fit, copies within the links' limits, tensors coherent."""

from mallocgame.baselines.placement.address_space import AddressSpace, InFlight
from mallocgame.baselines.placement.placement import Placement, PlacementFactory, append
from mallocgame.mapping import HOME, Mapping, Residency, Transfer


class PartialMapping:
    """Accepted plans. ``mapping`` is valid after every ``add``."""

    def __init__(self, factory: PlacementFactory) -> None:
        self.factory = factory
        hierarchy = factory.hierarchy
        self._spaces = [AddressSpace(layer.capacity_bytes, layer.alignment_bytes) for layer in hierarchy.layers]
        self._flights = InFlight(factory.program.num_steps, [link.max_in_flight for link in hierarchy.links])
        self.plans: list[Placement] = []
        self._of_tensor: dict[int, list[Placement]] = {}
        self._residencies: list[Residency] = []
        self._transfers: list[Transfer] = []

    def add(self, plan: Placement, offset: int | None = None) -> bool:
        """Accept ``plan`` at ``offset`` (None: best fit); False, with nothing changed, if it does not fit."""
        others = self._of_tensor.get(plan.tensor, [])
        if any(a < d and c < b for a, b in plan.spans for other in others for c, d in other.spans):
            return False
        if others and not self.factory.is_right([*others, plan]):
            return False
        space, size = self._spaces[plan.layer], self.factory.program.sizes_bytes[plan.tensor].item()
        if offset is None:
            offset = space.best_fit(plan.spans, size)
        elif not all(space.is_free(span, size, offset) for span in plan.spans):
            return False
        if offset is None or not self._start_copies(plan):
            return False
        space.add(plan.spans, size, offset)
        self.plans.append(plan)
        append(self.factory.program, plan, offset, self._residencies, self._transfers)
        self._of_tensor.setdefault(plan.tensor, []).append(plan)
        return True

    @property
    def mapping(self) -> Mapping:
        """The mapping of all accepted plans."""
        return Mapping(residencies=tuple(self._residencies), transfers=tuple(self._transfers))

    def _start_copies(self, plan: Placement) -> bool:
        started: list[tuple[int, int, int]] = []
        for copy in self._copies(plan):
            if not self._flights.add(*copy):
                for earlier in started:
                    self._flights.remove(*earlier)
                return False
            started.append(copy)
        return True

    def _copies(self, plan: Placement) -> list[tuple[int, int, int]]:
        link = self.factory.hierarchy.link_index(0, plan.layer)
        return [(2 * link + (move.target == HOME), move.issue, move.due) for move in plan.moves]
