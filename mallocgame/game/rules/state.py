"""The flat arrays of a game: what never changes (``Rules``) and what a choice changes (``State``).

A **group** is all uses of one movable tensor in one step: they are served by one place, so they are one decision. A
group with a use that the compiler wants in layer 0 is served there and is no decision. Group g owns residency g (the
one that a choice at g begins, if any), copy 2g (into that residency; the reload, if it is held from the run before) and
copy 2g + 1 (the write-back of what group g writes).

The two classes are the one table of the arrays: shapes, places in the buffers and what kernels see follow from them
(``views.py``). A state is copied by copying two buffers, and games are stacked in rows.
"""

from enum import IntEnum
from typing import Annotated

import numpy as np
import numpy.typing as npt

from mallocgame.game.rules.views import F64, I64, Views, declare, place_arrays

Bool = npt.NDArray[np.bool_]


class Size(IntEnum):
    """The sizes of a game, the first entries of its layout. In kernels ``r.num_steps`` and so on."""

    STEPS = 0  # T
    LAYERS = 1  # L
    LINKS = 2  # K
    GROUPS = 3  # G
    DECISIONS = 4  # D
    TENSORS = 5  # M, movable ones with uses
    LOOPS = 6  # with a trip count above 1
    BOUNDARIES = 7  # T + 1
    QUEUES = 8  # 2K: 2 link toward faster layers, 2 link + 1 toward slower ones
    COPIES = 9  # 2G
    INTERVALS = 10  # 3G, as many as can be taken at once in one layer: residencies, reloads, reservations
    LAYOUT = 11  # lengths of the buffers
    RULE_INTS = 12
    RULE_FLOATS = 13
    STATE_INTS = 14
    STATE_FLOATS = 15


class Groups(IntEnum):
    """Columns of ``Rules.groups``."""

    TENSOR = 0
    STEP = 1
    READS = 2
    WRITES = 3
    HOME_ONLY = 4  # ANYWHERE, AT_HOME or MIXED
    BYTES = 5


class Movables(IntEnum):
    """Columns of ``Rules.tensors``; tensor i owns the groups FIRST <= g < END."""

    FIRST = 0
    END = 1
    SIZE = 2
    IS_OUTPUT = 3
    HOISTABLE = 4
    HOLDABLE = 5
    INDEX = 6  # the program's number


class Loops(IntEnum):
    """Columns of ``Rules.loops``, outer loops first."""

    START = 0
    STOP = 1
    PARENT = 2


class Steps(IntEnum):
    """Columns of ``Rules.steps``."""

    TRIPS = 0
    LOOP = 1


class Boundaries(IntEnum):
    """Columns of ``Rules.boundaries``."""

    CONTEXT = 0
    CONTEXT_TRIPS = 1


class Layers(IntEnum):
    """Columns of ``Rules.layers``."""

    CAPACITY = 0
    ALIGNMENT = 1


class Links(IntEnum):
    """Columns of ``Rules.links``."""

    SHARED = 0
    LIMIT = 1


class Places(IntEnum):
    """Columns of ``State.places``, residencies; LAYER is 0 where there is none."""

    LAYER = 0
    OFFSET = 1
    BEGIN = 2
    FINISH = 3
    SINCE = 4  # boundary at which the contents are complete
    SOURCE = 5  # residency that is copied from, -1: layer 0
    LAST = 6  # last group served
    ENTRY = 7  # BORN, COPIED or HELD_OVER


class Moves(IntEnum):
    """Columns of ``State.copies``; QUEUE is -1 where there is no copy."""

    QUEUE = 0
    ISSUE = 1
    DUE = 2
    POSITION = 3
    NEXT = 4
    PREVIOUS = 5
    CLIPPED = 6


ANYWHERE, AT_HOME, MIXED = 0, 1, 2  # Groups.HOME_ONLY: none, all or some of the group's uses insist on layer 0
BORN, COPIED, HELD_OVER = 0, 1, 2  # Places.ENTRY: how the residency is filled


class Rules(Views):
    """What does not change. ``ints`` begins with the layout."""

    num_steps: int
    num_layers: int
    num_links: int
    num_groups: int
    num_decisions: int
    layout: Annotated[I64, Size.LAYOUT]
    ints: Annotated[I64, Size.RULE_INTS]
    floats: Annotated[F64, Size.RULE_FLOATS]
    groups: Annotated[I64, Size.GROUPS, Groups]  # by tensor, then step
    decisions: Annotated[I64, Size.DECISIONS]  # group of each decision, by step, then tensor
    tensors: Annotated[I64, Size.TENSORS, Movables]
    loops: Annotated[I64, Size.LOOPS, Loops]
    steps: Annotated[I64, Size.STEPS, Steps]
    boundaries: Annotated[I64, Size.BOUNDARIES, Boundaries]
    home_bytes: Annotated[I64, Size.STEPS, Size.LAYERS]  # traffic of one execution with everything in layer 0
    layers: Annotated[I64, Size.LAYERS, Layers]
    links: Annotated[I64, Size.LINKS, Links]
    link_of: Annotated[I64, Size.LAYERS, Size.LAYERS]  # -1: none
    compute: Annotated[F64, Size.STEPS]  # seconds of one execution
    layer_speed: Annotated[F64, Size.LAYERS]  # bytes per second
    link_speed: Annotated[F64, Size.LINKS]
    latency: Annotated[F64, Size.LINKS]  # seconds
    home_seconds: Annotated[F64, 1]  # all in layer 0: the unit of rewards


class State(Views):
    """What choices change. Every state is a valid mapping: what is not decided yet is served from layer 0."""

    layout: Annotated[I64, Size.LAYOUT]
    ints: Annotated[I64, Size.STATE_INTS]
    floats: Annotated[F64, Size.STATE_FLOATS]
    turn: Annotated[I64, 1]  # decisions taken so far
    served: Annotated[I64, Size.GROUPS]  # residency that serves the group, -1 for layer 0
    places: Annotated[I64, Size.GROUPS, Places]
    copies: Annotated[I64, Size.COPIES, Moves]
    current: Annotated[I64, Size.TENSORS, Size.LAYERS]  # residency in that layer that may go on (-1: none)
    latest: Annotated[I64, Size.TENSORS, Size.LAYERS]  # latest residency in that layer (-1: none)
    order: Annotated[I64, Size.QUEUES, Size.COPIES]  # copies of each queue by issue boundary, then number
    counts: Annotated[I64, Size.QUEUES]  # how many
    due_first: Annotated[I64, Size.BOUNDARIES]  # first copy due at a boundary (-1: none), linked by NEXT
    in_flight: Annotated[I64, Size.QUEUES, Size.BOUNDARIES]  # copies under way just after a boundary
    rects: Annotated[I64, Size.LAYERS, Size.COPIES]  # 2 * residency (+ 1: its reload) by end
    rect_ends: Annotated[I64, Size.LAYERS, Size.COPIES]
    rect_counts: Annotated[I64, Size.LAYERS]
    reservations: Annotated[I64, Size.LAYERS, Size.GROUPS]  # residencies that may go on to a later group, by its step
    reservation_ends: Annotated[I64, Size.LAYERS, Size.GROUPS]  # that step + 1
    reservation_counts: Annotated[I64, Size.LAYERS]
    planned: Annotated[I64, Size.GROUPS]  # offsets of the residencies as the plan at hand would have them
    moved: Annotated[I64, Size.GROUPS]  # residencies that it would move
    moved_count: Annotated[I64, 1]
    marks: Annotated[I64, Size.GROUPS]  # scratch, 0 between calls
    occupied: Annotated[I64, Size.STEPS, Size.LAYERS]  # bytes taken in each step
    layer_bytes: Annotated[I64, Size.STEPS, Size.LAYERS]  # bytes that one execution moves
    heads: Annotated[I64, Size.BOUNDARIES, Size.QUEUES]  # first unfinished copy on arrival at a boundary (-1: none)
    total: Annotated[F64, 1]  # simulated seconds of the mapping so far
    work: Annotated[F64, Size.COPIES]  # link seconds of each copy
    stall: Annotated[F64, Size.BOUNDARIES]
    elapsed: Annotated[F64, Size.STEPS]  # seconds of all executions
    idle: Annotated[F64, Size.STEPS, Size.LINKS]  # link seconds that instructions leave
    busy: Annotated[F64, Size.STEPS, Size.LINKS]  # of these, what copies use
    left: Annotated[F64, Size.BOUNDARIES, Size.QUEUES]  # what is left of ``heads`` on arrival
    first_touched: Annotated[I64, 1]  # the timeline changes from this boundary on (scratch, as are the rest)
    last_touched: Annotated[I64, 1]  # and, but for what that causes, not after this one; -1: nowhere
    gap_offsets: Annotated[I64, Size.INTERVALS]  # intervals taken in the layer that is looked at, sorted
    gap_tops: Annotated[I64, Size.INTERVALS]
    queue_head: Annotated[I64, Size.QUEUES]  # each queue's unfinished copies, as the timeline is walked
    queue_tail: Annotated[I64, Size.QUEUES]
    remaining: Annotated[F64, Size.COPIES]  # what is left of them


_RULES_END = declare(Rules, Size, len(Size))
LAYOUT_LENGTH = declare(State, Size, _RULES_END)


def make_layout(*, steps: int, layers: int, links: int, groups: int, decisions: int, tensors: int, loops: int) -> I64:
    """Return int64[LAYOUT_LENGTH]: the sizes of a game, then where each array of ``Rules`` and ``State`` begins."""
    layout = np.zeros(LAYOUT_LENGTH, dtype=np.int64)
    layout[: Size.BOUNDARIES] = steps, layers, links, groups, decisions, tensors, loops
    layout[Size.BOUNDARIES] = steps + 1
    layout[Size.QUEUES], layout[Size.COPIES], layout[Size.INTERVALS] = 2 * links, 2 * groups, 3 * groups
    layout[Size.LAYOUT] = LAYOUT_LENGTH
    layout[[Size.RULE_INTS, Size.RULE_FLOATS]] = place_arrays(Rules, layout, LAYOUT_LENGTH)
    layout[[Size.STATE_INTS, Size.STATE_FLOATS]] = place_arrays(State, layout, 0)
    return layout


def rules_in(ints: I64, floats: F64) -> Rules:
    """Return the rules that live in two buffers."""
    return Rules(ints[:LAYOUT_LENGTH], ints, floats)
