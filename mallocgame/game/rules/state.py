"""The flat arrays of a game: what never changes (``Rules``) and what a choice changes (``State``).

A **group** is all uses of one movable tensor in one step: they are served by one place, so they are one decision. A
group with a use that the compiler wants in layer 0 is served there and is no decision. Group g owns residency g (the
one that a choice at g begins, if any), copy 2g (into that residency; the reload, if it is held from the run before) and
copy 2g + 1 (the write-back of what group g writes).

Both types are NamedTuples of views into two flat buffers (int64 and float64) whose layout follows from ``dims``: a
state is copied by copying two arrays, and games are stacked in rows.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mallocgame.jit import jit, kernel

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

# Rules.dims
STEPS, LAYERS, LINKS, GROUPS, DECISIONS, TENSORS, LOOPS, NUM_DIMS = 0, 1, 2, 3, 4, 5, 6, 7
# columns of Rules.groups
TENSOR, STEP, READS, WRITES, HOME_ONLY, BYTES, GROUP_COLUMNS = 0, 1, 2, 3, 4, 5, 6
# columns of Rules.tensors; tensor i owns the groups FIRST <= g < END
FIRST, END, SIZE, IS_OUTPUT, HOISTABLE, HOLDABLE, INDEX, TENSOR_COLUMNS = 0, 1, 2, 3, 4, 5, 6, 7
# columns of Rules.loops (trip count > 1 only), outer loops first
START, STOP, PARENT, LOOP_COLUMNS = 0, 1, 2, 3
# columns of Rules.boundaries [T + 1] and Rules.steps [T]
CONTEXT, CONTEXT_TRIPS, BOUNDARY_COLUMNS = 0, 1, 2
TRIPS, LOOP, STEP_COLUMNS = 0, 1, 2
# columns of Rules.layers and Rules.links (integers)
CAPACITY, ALIGNMENT, LAYER_COLUMNS = 0, 1, 2
SHARED, LIMIT, LINK_COLUMNS = 0, 1, 2
# columns of State.places, one row per group; LAYER is 0 where there is no residency
LAYER, OFFSET, BEGIN, FINISH, SINCE, SOURCE, LAST, ENTRY, PLACE_COLUMNS = 0, 1, 2, 3, 4, 5, 6, 7, 8
# State.places ENTRY: how the residency is filled
BORN, COPIED, HELD_OVER = 0, 1, 2
# columns of State.copies, two rows per group; QUEUE is -1 where there is no copy
QUEUE, ISSUE, DUE, POSITION, NEXT, PREVIOUS, CLIPPED, COPY_COLUMNS = 0, 1, 2, 3, 4, 5, 6, 7


class Rules(NamedTuple):
    """What does not change; the column names are this module's constants."""

    dims: I64  # int64[7]
    groups: I64  # int64[G, 6], by tensor, then step
    decisions: I64  # int64[D], group of each decision, by step, then tensor
    tensors: I64  # int64[M, 7], movable tensors with uses; INDEX is the program's number
    loops: I64  # int64[loops, 3]
    steps: I64  # int64[T, 2]
    boundaries: I64  # int64[T + 1, 2]
    home_bytes: I64  # int64[T, L], traffic of one execution with everything in layer 0
    layers: I64  # int64[L, 2]
    links: I64  # int64[K, 2]
    link_of: I64  # int64[L, L]
    compute: F64  # float64[T], seconds of one execution
    layer_speed: F64  # float64[L], bytes per second
    link_speed: F64  # float64[K]
    latency: F64  # float64[K], seconds
    home_seconds: F64  # float64[1], all in layer 0: the unit of rewards


class State(NamedTuple):
    """What choices change. Every state is a valid mapping: what is not decided yet is served from layer 0."""

    ints: I64  # the whole int64 buffer
    floats: F64  # the whole float64 buffer
    turn: I64  # int64[1], decisions taken so far
    served: I64  # int64[G], residency that serves the group, -1 for layer 0
    places: I64  # int64[G, 8], residencies
    copies: I64  # int64[2G, 7]
    current: I64  # int64[M, L], residency in that layer that may go on (-1: none)
    latest: I64  # int64[M, L], latest residency in that layer (-1: none)
    order: I64  # int64[2K, 2G], copies of each queue by issue boundary, then number
    counts: I64  # int64[2K], how many
    due_first: I64  # int64[T + 1], first copy due at a boundary (-1: none), linked by NEXT
    flights: I64  # int64[2K, T + 1], copies under way just after a boundary
    rects: I64  # int64[L, 2G], 2 * residency (+ 1: its reload) by end
    rect_ends: I64  # int64[L, 2G]
    rect_counts: I64  # int64[L]
    wishes: I64  # int64[L, G], residencies that may go on to a later group, by that group's step
    wish_ends: I64  # int64[L, G], that step + 1
    wish_counts: I64  # int64[L]
    planned: I64  # int64[G], offsets of the residencies as the plan at hand would have them
    moved: I64  # int64[G], residencies that it would move
    moved_count: I64  # int64[1]
    marks: I64  # int64[G], scratch, 0 between calls
    occupied: I64  # int64[T, L], bytes taken in each step
    layer_bytes: I64  # int64[T, L], bytes that one execution moves
    heads: I64  # int64[T + 1, 2K], first unfinished copy on arrival at a boundary (-1: none)
    total: F64  # float64[1], simulated seconds of the mapping so far
    work: F64  # float64[2G], link seconds of each copy
    stall: F64  # float64[T + 1]
    elapsed: F64  # float64[T], seconds of all executions
    idle: F64  # float64[T, K], link seconds that instructions leave
    busy: F64  # float64[T, K], of these, what copies use
    left: F64  # float64[T + 1, 2K], what is left of ``heads`` on arrival
    scratch: I64  # int64[6G + 6K + 32]
    remaining: F64  # float64[2G], scratch


@kernel
def state_ints(dims: I64) -> int:
    """Return the length of a state's int64 buffer."""
    t, n_layers, k, g, m = dims[STEPS], dims[LAYERS], dims[LINKS], dims[GROUPS], dims[TENSORS]
    per_group = 1 + PLACE_COLUMNS + 2 * COPY_COLUMNS + 4 * k + 6 * n_layers + 9
    per_step = 1 + 2 * k + 2 * n_layers + 2 * k
    return int(1 + g * per_group + 2 * m * n_layers + 8 * k + 2 * n_layers + 33 + (t + 1) * per_step)


@kernel
def state_floats(dims: I64) -> int:
    """Return the length of a state's float64 buffer."""
    t, k, g = dims[STEPS], dims[LINKS], dims[GROUPS]
    return int(1 + 4 * g + (t + 1) * (2 + 4 * k))


@jit
def state_views(dims: I64, ints: I64, floats: F64) -> State:
    """Return the state that lives in two buffers (of ``state_ints`` and ``state_floats`` elements or more)."""
    t, n, k, g, m = dims[STEPS], dims[LAYERS], dims[LINKS], dims[GROUPS], dims[TENSORS]
    a = np.empty(25, dtype=np.int64)  # where each int64 array begins
    sizes = (
        1,
        g,
        g * PLACE_COLUMNS,
        2 * g * COPY_COLUMNS,
        m * n,
        m * n,
        2 * k * 2 * g,
        2 * k,
        t + 1,
        2 * k * (t + 1),
        n * 2 * g,
        n * 2 * g,
        n,
        n * g,
        n * g,
        n,
        g,
        g,
        1,
        g,
        t * n,
        t * n,
        (t + 1) * 2 * k,
        6 * g + 6 * k + 32,
    )
    a[0] = 0
    for i in range(24):
        a[i + 1] = a[i] + sizes[i]
    f = np.empty(9, dtype=np.int64)
    lengths = (1, 2 * g, t + 1, t, t * k, t * k, (t + 1) * 2 * k, 2 * g)
    f[0] = 0
    for i in range(8):
        f[i + 1] = f[i] + lengths[i]
    return State(
        ints,
        floats,
        ints[a[0] : a[1]],
        ints[a[1] : a[2]],
        ints[a[2] : a[3]].reshape((g, PLACE_COLUMNS)),
        ints[a[3] : a[4]].reshape((2 * g, COPY_COLUMNS)),
        ints[a[4] : a[5]].reshape((m, n)),
        ints[a[5] : a[6]].reshape((m, n)),
        ints[a[6] : a[7]].reshape((2 * k, 2 * g)),
        ints[a[7] : a[8]],
        ints[a[8] : a[9]],
        ints[a[9] : a[10]].reshape((2 * k, t + 1)),
        ints[a[10] : a[11]].reshape((n, 2 * g)),
        ints[a[11] : a[12]].reshape((n, 2 * g)),
        ints[a[12] : a[13]],
        ints[a[13] : a[14]].reshape((n, g)),
        ints[a[14] : a[15]].reshape((n, g)),
        ints[a[15] : a[16]],
        ints[a[16] : a[17]],
        ints[a[17] : a[18]],
        ints[a[18] : a[19]],
        ints[a[19] : a[20]],
        ints[a[20] : a[21]].reshape((t, n)),
        ints[a[21] : a[22]].reshape((t, n)),
        ints[a[22] : a[23]].reshape((t + 1, 2 * k)),
        floats[f[0] : f[1]],
        floats[f[1] : f[2]],
        floats[f[2] : f[3]],
        floats[f[3] : f[4]],
        floats[f[4] : f[5]].reshape((t, k)),
        floats[f[5] : f[6]].reshape((t, k)),
        floats[f[6] : f[7]].reshape((t + 1, 2 * k)),
        ints[a[23] : a[24]],
        floats[f[7] : f[8]],
    )


def pack_rules(rules: Rules) -> tuple[I64, F64]:
    """Return all of ``rules`` in one int64 and one float64 buffer, ``dims`` first."""
    arrays = [np.ascontiguousarray(array).reshape(-1) for array in rules]
    split = Rules._fields.index("compute")
    return np.concatenate(arrays[:split]), np.concatenate(arrays[split:])


@jit
def rules_views(ints: I64, floats: F64) -> Rules:
    """Undo ``pack_rules``; the buffers may be longer."""
    dims = ints[:NUM_DIMS]
    t, n, k = dims[STEPS], dims[LAYERS], dims[LINKS]
    a = np.empty(11, dtype=np.int64)  # where each int64 array begins
    sizes = (
        NUM_DIMS,
        dims[GROUPS] * GROUP_COLUMNS,
        dims[DECISIONS],
        dims[TENSORS] * TENSOR_COLUMNS,
        dims[LOOPS] * LOOP_COLUMNS,
        t * STEP_COLUMNS,
        (t + 1) * BOUNDARY_COLUMNS,
        t * n,
        n * LAYER_COLUMNS,
        k * LINK_COLUMNS,
    )
    a[0] = 0
    for i in range(10):
        a[i + 1] = a[i] + sizes[i]
    return Rules(
        dims,
        ints[a[1] : a[2]].reshape((dims[GROUPS], GROUP_COLUMNS)),
        ints[a[2] : a[3]],
        ints[a[3] : a[4]].reshape((dims[TENSORS], TENSOR_COLUMNS)),
        ints[a[4] : a[5]].reshape((dims[LOOPS], LOOP_COLUMNS)),
        ints[a[5] : a[6]].reshape((t, STEP_COLUMNS)),
        ints[a[6] : a[7]].reshape((t + 1, BOUNDARY_COLUMNS)),
        ints[a[7] : a[8]].reshape((t, n)),
        ints[a[8] : a[9]].reshape((n, LAYER_COLUMNS)),
        ints[a[9] : a[10]].reshape((k, LINK_COLUMNS)),
        ints[a[10] : a[10] + n * n].reshape((n, n)),
        floats[:t],
        floats[t : t + n],
        floats[t + n : t + n + k],
        floats[t + n + k : t + n + 2 * k],
        floats[t + n + 2 * k : t + n + 2 * k + 1],
    )
