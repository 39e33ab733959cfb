"""The flow of a tensor's current contents along its route, as columns and rows of a linear relaxation.

Per leg and layer above 0: ``kept`` (the contents stay and occupy the layer). Per leg and pair of layers: a
``CopyArc`` (a copy arrives). Per use: ``served`` by a layer. After a write only the layer written is current. With all
columns in {0, 1} every valid mapping is a point of this flow, so its linear relaxation bounds all of them.
"""

from dataclasses import dataclass, field, replace

from mallocgame.baselines.bounds.linear import Expression, LinearProgram
from mallocgame.baselines.bounds.route import Leg, Route, Stop, StopKind
from mallocgame.program import Tensor

ONE = Expression(constant=1.0)
ZERO = Expression()

PerLayer = list[Expression]


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyArc:
    """How much of a tensor (0 to 1) is copied from one layer to another, complete at the end of a leg at the latest."""

    column: int
    tensor: int
    source: int
    target: int
    leg: Leg
    leg_index: int
    is_reload: bool = False  # fetches what is held for the next run


@dataclass(slots=True)
class ContentsFlow:
    """One tensor's columns, by stop, leg and position in ``layers``."""

    route: Route
    layers: tuple[int, ...]  # those the tensor fits in, layer 0 first
    served: dict[int, PerLayer] = field(default_factory=dict)  # stop: the share of its free uses that a layer serves
    present: dict[int, PerLayer] = field(default_factory=dict)  # stop (a use): what occupies the layer during its step
    kept: dict[int, PerLayer] = field(default_factory=dict)  # leg: what stays, and occupies the layer between the stops
    moves: list[CopyArc] = field(default_factory=list)
    lasting: dict[int, int] = field(default_factory=dict)  # position in layers: column, 1 where it stays for ever
    # With more than two layers, those above 0 as one, so that a fraction in each of them is not counted twice:
    above: dict[int, Expression] = field(default_factory=dict)  # leg: 1 where one of them has it all the while
    above_at: dict[int, Expression] = field(default_factory=dict)  # stop (a use): 1 where one of them has it
    brought: dict[int, Expression] = field(default_factory=dict)  # leg: copies into them from layer 0
    ending: dict[int, Expression] = field(default_factory=dict)  # position in layers: 1 where it is there at the end
    held: int | None = None  # column: 1 where one of them has it at the start
    above_now: Expression = field(default_factory=Expression)  # 1 where one of them has it, at this point of the route

    @property
    def is_deep(self) -> bool:
        """Whether more than one layer above 0 can have it."""
        return len(self.layers) > 2

    def shifted(self, by: int, path: Route) -> "ContentsFlow":
        """Return the same flow along another route of the same kind, its columns ``by`` further on."""

        def each(table: dict[int, PerLayer]) -> dict[int, PerLayer]:
            return {key: [place.shifted(by) for place in places] for key, places in table.items()}

        return ContentsFlow(
            route=path,
            layers=self.layers,
            served=each(self.served),
            present=each(self.present),
            kept=each(self.kept),
            moves=[
                replace(move, column=move.column + by, tensor=path.tensor, leg=path.legs[move.leg_index])
                for move in self.moves
            ],
        )


def add_flow(
    program: LinearProgram, tensor: Tensor, path: Route, layers: tuple[int, ...], lasting: range = range(0)
) -> ContentsFlow:
    """Add the columns and rows of one movable tensor."""
    flow = ContentsFlow(route=path, layers=layers)
    last = len(path.legs) - 1
    current = _start(program, tensor, flow, lasting)
    native = [ZERO, *current[1:]]  # the part that no copy of this run brought: it may enter loops where copies may not
    split = not tensor.hoistable and any(stop.kind is StopKind.ENTRY for stop in path.stops)
    arrivals: list[PerLayer] = []
    entries: dict[int, PerLayer] = {}
    before_last = flow.above_now
    for k, leg in enumerate(path.legs):
        before_last = flow.above_now
        there = path.stops[k + 1]
        wanted = tensor.is_output if k == last else not (there.kind is StopKind.USE and _only_defines(there))
        arrived = _travel(program, flow, k, leg, current) if wanted else [ZERO] * len(layers)
        _keep_somewhere(program, flow, k, current[0], wanted)
        arrivals.append(arrived)
        if split and wanted:
            native = [ZERO, *(_both(program, n, kept) for n, kept in zip(native[1:], flow.kept[k][1:], strict=True))]
        flow.above_now = flow.above[k].plus(flow.brought.get(k, ZERO)) if wanted else ZERO
        if there.kind is StopKind.USE:
            current = _use(program, flow, k + 1, there, arrived)
            if there.writes_home or (there.writes and not there.needs_contents):
                native = [ZERO, *current[1:]]
        elif there.kind is StopKind.ENTRY:
            allowed = [arrived[0], *native[1:]] if split else arrived
            writes = any(stop.writes for stop in path.stops[k + 1 : path.exit_of(k + 1)])
            at_home = _both(program, arrived[0], arrived[0]) if writes else arrived[0]
            current = [at_home, *(_both(program, a, a) for a in allowed[1:])]
            native = [ZERO, *current[1:]]
            entries[k + 1] = current
            if flow.is_deep:
                flow.above_now = _both(program, flow.above_now, flow.above_now)
        else:
            current = arrived
    for entry, inside in entries.items():  # what a body finds at its start is also what its end leaves there
        back = arrivals[path.exit_of(entry) - 1]
        for small, large in zip(inside, back, strict=True):
            if small is not large and large is not ONE:
                program.not_above(small, large)
    if tensor.is_output:
        program.not_above(ONE, arrivals[last][0])
    _end(program, flow)
    if not any(stop.writes for stop in path.stops):
        _hold_above(program, flow, before_last)
        for at, column in flow.lasting.items():  # nothing makes it stale: it is there all the while
            for places in (*flow.kept.values(), *flow.present.values()):
                if places[at] is not ONE:
                    program.not_above(Expression.of(column), places[at])
    return flow


def _end(program: LinearProgram, flow: ContentsFlow) -> None:
    """Before the end, what is fetched again is in the layer that it comes from, and has its place where it goes."""
    reloads = [move for move in flow.moves if move.is_reload]
    for at, layer in enumerate(flow.layers):
        arrives = [move.column for move in reloads if layer == move.target]
        arrives += [flow.lasting[at]] if at in flow.lasting else []
        leaves = [move.column for move in reloads if layer == move.source]
        if at > 0 and arrives:
            if len(arrives) + len(leaves) == 1:
                flow.ending[at] = Expression.of(*arrives)
                continue
            flow.ending[at] = Expression.of(program.column(0.0, 1.0))
            for columns in (arrives, *([column] for column in leaves)):
                program.not_above(Expression.of(*columns), flow.ending[at])


def _hold_above(program: LinearProgram, flow: ContentsFlow, before: Expression) -> None:
    """What is held is in some layer above 0 from its last use to the end, or comes from layer 0 then.

    Between two runs it is in a middle layer, as what lasts, what is fetched again or where that comes from; or the
    fastest layer fetches it from layer 0.

    ``before``: 1 where one of them has it after the last use.
    """
    last = len(flow.route.legs) - 1
    reloads = [move for move in flow.moves if move.is_reload]
    if not reloads or not flow.is_deep:
        return
    if last not in flow.above:
        flow.above[last] = Expression.of(program.column(0.0, 1.0))
        program.not_above(flow.above[last], before)
        brought = Expression()
        for layer in flow.layers[1:]:
            brought.add(_move(program, flow, last, 0, layer))
        flow.brought[last] = brought
    enough = flow.above[last].plus(flow.brought.get(last, ZERO))
    enough.add(Expression.of(*(move.column for move in reloads if move.source == 0)))
    for move in reloads:
        if move.source > 0:
            program.not_above(Expression.of(move.column), enough)
    if flow.held is not None:
        program.not_above(Expression.of(flow.held), enough)
        between = Expression.of(*(m.column for m in reloads if m.source == 0 and m.target == flow.layers[-1]))
        for at in range(1, len(flow.layers) - 1):
            between.add(flow.ending.get(at, ZERO))
        program.not_above(Expression.of(flow.held), between)
    for column in flow.lasting.values():
        program.not_above(Expression.of(column), flow.above[last])


def _any_of(program: LinearProgram, places: PerLayer) -> Expression:
    """Return a column that is at least each of the places above layer 0; with one of them, that itself."""
    if len(places) == 2:
        return places[1]
    column = Expression.of(program.column(0.0, 1.0))
    for place in places[1:]:
        program.not_above(place, column)
    return column


def _only_defines(stop: Stop) -> bool:
    return not stop.needs_contents and not stop.needs_home


def _is_zero(expression: Expression) -> bool:
    return not expression.terms and expression.constant <= 0.0


def _both(program: LinearProgram, a: Expression, b: Expression) -> Expression:
    """Return a new column that is at most either."""
    if _is_zero(a) or _is_zero(b):
        return ZERO
    column = Expression.of(program.column(0.0, 1.0))
    for bound in (a, b) if a is not b else (a,):
        if bound is not ONE:
            program.not_above(column, bound)
    return column


def _start(program: LinearProgram, tensor: Tensor, flow: ContentsFlow, lasting: range) -> PerLayer:
    """Return what is current at the start: layer 0, and what is held.

    A copy at the end must fetch that again, but in the layers ``lasting``, where it may stay for ever.
    """
    current = [ONE]
    last = len(flow.route.legs) - 1
    for b, target in enumerate(flow.layers[1:], start=1):
        held = ZERO
        if tensor.holdable and tensor.is_parameter:
            for a in range(len(flow.layers)):
                if a != b:
                    held = held.plus(_move(program, flow, last, flow.layers[a], target, is_reload=True))
            if target in lasting:
                flow.lasting[b] = program.column(0.0, 1.0)
                held = held.plus(Expression.of(flow.lasting[b]))
        current.append(held)
    if flow.is_deep and not all(_is_zero(place) for place in current[1:]):
        flow.held = program.column(0.0, 1.0)
        flow.above_now = Expression.of(flow.held)
        anywhere = Expression()
        for place in current[1:]:
            anywhere.add(place)
        program.not_above(flow.above_now, anywhere)
    return current


def _move(
    program: LinearProgram, flow: ContentsFlow, leg_index: int, source: int, target: int, *, is_reload: bool = False
) -> Expression:
    column = program.column(0.0, 1.0)
    flow.moves.append(
        CopyArc(
            column=column,
            tensor=flow.route.tensor,
            source=source,
            target=target,
            leg=flow.route.legs[leg_index],
            leg_index=leg_index,
            is_reload=is_reload,
        )
    )
    return Expression.of(column)


def _travel(program: LinearProgram, flow: ContentsFlow, k: int, leg: Leg, current: PerLayer) -> PerLayer:
    """Add a leg; return what is current at its end."""
    layers = flow.layers
    kept = [current[0], *(_both(program, c, c) for c in current[1:])]
    flow.kept[k] = kept
    flow.above[k] = _any_of(program, kept)
    if flow.is_deep:
        program.not_above(flow.above[k], flow.above_now)
    if not leg.can_arrive:
        return kept
    clean = current[0] is ONE
    moves: dict[tuple[int, int], Expression] = {}
    for a in range(len(layers)):
        for b in range(len(layers)):
            reachable = not _is_zero(current[a]) or len(layers) > 2
            if a != b and reachable and not (b == 0 and clean):
                moves[a, b] = _move(program, flow, k, layers[a], layers[b])
    from_home = flow.brought[k] = _brought(program, flow, current[0], moves)
    arrived = list(kept)
    for (a, b), moved in moves.items():
        source = current[a]
        for (_, through), other in moves.items():  # what arrived on this leg may travel on
            if through == a and (a == 0 or len(layers) > 2):
                source = source.plus(other)
        if source is not ONE:
            program.not_above(moved, source)
        if a > 0 and b > 0:  # two layers cannot bring each other what neither has
            inside = from_home
            for place in current[1:]:
                inside = inside.plus(place)
            program.not_above(moved, inside)
            program.not_above(moved, from_home.plus(flow.above[k]))
        arrived[b] = arrived[b].plus(moved) if arrived[b] is not ONE else ONE
    return arrived


def _keep_somewhere(program: LinearProgram, flow: ContentsFlow, k: int, at_home: Expression, wanted: bool) -> None:
    """What is needed at the end of a leg is above layer 0 all the while, or layer 0 has it, or gets it, on the way.

    Of what is current at a loop's edge nobody knows whether it is needed.
    """
    if wanted and flow.is_deep and at_home is not ONE and flow.route.stops[k + 1].kind in (StopKind.USE, StopKind.END):
        places = flow.above[k].plus(at_home)
        places.add(Expression.of(*(move.column for move in flow.moves if move.leg_index == k and move.target == 0)))
        program.not_above(ONE, places)


def _brought(
    program: LinearProgram, flow: ContentsFlow, at_home: Expression, moves: dict[tuple[int, int], Expression]
) -> Expression:
    """Return what comes from layer 0 into those above it as one: at most what layer 0 has, else a part counts twice."""
    brought, has = Expression(), Expression(list(at_home.terms), at_home.constant)
    for (a, b), moved in moves.items():
        if a == 0:
            brought.add(moved)
        elif b == 0:
            has.add(moved)
    if not flow.is_deep or at_home is ONE or not brought.terms:
        return brought
    column = Expression.of(program.column(0.0, 1.0))
    program.not_above(column, brought)
    program.not_above(column, has)
    return column


def _use(program: LinearProgram, flow: ContentsFlow, index: int, stop: Stop, arrived: PerLayer) -> PerLayer:
    """Add a use; return what is current after it."""
    none_above = [ZERO] * (len(arrived) - 1)
    if stop.needs_home and arrived[0] is not ONE:
        program.not_above(ONE, arrived[0])
    served = [ONE, *none_above]
    if stop.is_free:
        limits = arrived[1:] if stop.needs_contents else [ONE] * len(none_above)
        above = [_both(program, limit, limit) for limit in limits]
        at_home = ONE
        for share in above:
            at_home = at_home.plus(share, -1.0)
        served = [at_home, *above]
        if len(above) > 1:
            program.not_above(ZERO, at_home)
        if stop.needs_contents and arrived[0] is not ONE:
            program.not_above(at_home, arrived[0])
        flow.served[index] = served
    anywhere = Expression()
    for share in served[1:]:
        anywhere.add(share)
    if flow.is_deep and stop.is_free and stop.needs_contents:
        program.not_above(anywhere, flow.above_now)
    if stop.writes:
        flow.present[index] = served
        flow.above_at[index] = anywhere  # one layer is written
        flow.above_now = ZERO if stop.writes_home else anywhere
        return [ONE, *none_above] if stop.writes_home else served
    stays = [_both(program, limit, limit) for limit in arrived[1:]]
    if stop.is_free:
        for share, space in zip(served[1:], stays, strict=True):
            program.not_above(share, space)
    flow.present[index] = [arrived[0], *stays]
    flow.above_at[index] = _any_of(program, flow.present[index])
    if flow.is_deep:
        program.not_above(anywhere, flow.above_at[index])
        program.not_above(flow.above_at[index], flow.above_now)
        flow.above_now = flow.above_at[index]
    return flow.present[index]
