"""From a program and a hierarchy to the rules' arrays."""

import numpy as np

from mallocgame.collapse import is_straight
from mallocgame.errors import InputError
from mallocgame.game.rules.state import (
    BOUNDARY_COLUMNS,
    CONTEXT,
    CONTEXT_TRIPS,
    DECISIONS,
    GROUP_COLUMNS,
    GROUPS,
    HOME_ONLY,
    I64,
    LAYERS,
    LINKS,
    LOOP,
    LOOP_COLUMNS,
    LOOPS,
    NUM_DIMS,
    QUEUE,
    SHARED,
    STEP,
    STEP_COLUMNS,
    STEPS,
    TENSOR,
    TENSOR_COLUMNS,
    TENSORS,
    TRIPS,
    Rules,
    State,
    state_floats,
    state_ints,
    state_views,
)
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge import timeline
from mallocgame.program import Loop, Program, UseKind


def build_rules(program: Program, hierarchy: Hierarchy) -> Rules:
    """Return the arrays that do not change.

    Raises:
        InputError: the program has branches, or trip counts that are fractions.
    """
    if not is_straight(program):
        reason = "the game plays straight programs with whole trip counts: play collapse(program).program"
        raise InputError(f"{program.name}: {reason}")
    num_layers, num_links = hierarchy.num_layers, len(hierarchy.links)
    groups, tensors = _groups(program)
    decisions = np.flatnonzero(groups[:, HOME_ONLY] == 0)
    decisions = decisions[np.lexsort((groups[decisions, TENSOR], groups[decisions, STEP]))]
    loops, steps, boundaries = _loops(program)
    home_bytes = program.fixed_bytes(num_layers)
    np.add.at(home_bytes[:, 0], program.uses.step, program.uses.bytes)
    dims = np.zeros(NUM_DIMS, dtype=np.int64)
    dims[STEPS], dims[LAYERS], dims[LINKS] = program.num_steps, num_layers, num_links
    dims[GROUPS], dims[DECISIONS], dims[TENSORS], dims[LOOPS] = len(groups), len(decisions), len(tensors), len(loops)
    link_of = np.full((num_layers, num_layers), -1, dtype=np.int64)
    for k, link in enumerate(hierarchy.links):
        for a, b in link.pairs:
            link_of[a, b] = link_of[b, a] = k
    shared = [(-1 if x.shared_layer is None else x.shared_layer, x.max_in_flight) for x in hierarchy.links]
    rules = Rules(
        dims=dims,
        groups=groups,
        decisions=decisions.astype(np.int64),
        tensors=tensors,
        loops=loops,
        steps=steps,
        boundaries=boundaries,
        home_bytes=home_bytes,
        layers=np.array([(x.capacity_bytes, x.alignment_bytes) for x in hierarchy.layers], dtype=np.int64),
        links=np.array(shared, dtype=np.int64),
        link_of=link_of,
        compute=program.compute_seconds.copy(),
        layer_speed=np.array([x.bytes_per_second for x in hierarchy.layers], dtype=np.float64),
        link_speed=np.array([x.bytes_per_second for x in hierarchy.links], dtype=np.float64),
        latency=np.array([x.latency_seconds for x in hierarchy.links], dtype=np.float64),
        home_seconds=np.zeros(1),
    )
    rules.home_seconds[0] = build_start(rules).total[0]
    return rules


def build_start(rules: Rules) -> State:
    """Return the state in which nothing is decided."""
    dims = rules.dims
    s = state_views(dims, np.zeros(state_ints(dims), dtype=np.int64), np.zeros(state_floats(dims), dtype=np.float64))
    s.served[:] = -1
    s.copies[:, QUEUE] = -1
    s.current[:] = -1
    s.latest[:] = -1
    s.due_first[:] = -1
    s.heads[:] = -1
    s.layer_bytes[:] = rules.home_bytes
    shared = np.ascontiguousarray(rules.links[:, SHARED])
    trips = np.ascontiguousarray(rules.steps[:, TRIPS])
    timeline.instruction_times(rules.compute, trips, s.layer_bytes, rules.layer_speed, shared, s.elapsed, s.idle)
    s.total[0] = s.elapsed.sum()
    return s


def _groups(program: Program) -> tuple[I64, I64]:
    """Return ``Rules.groups`` and ``Rules.tensors``. HOME_ONLY is 2 where only some uses of a step are home-only."""
    rows: list[list[int]] = []
    tensors: list[tuple[int, ...]] = []
    for index, tensor in enumerate(program.tensors):
        if not tensor.movable or not tensor.uses:
            continue
        first = len(rows)
        homes: list[list[bool]] = []
        for use in tensor.uses:
            if len(rows) == first or rows[-1][STEP] != use.step:
                rows.append([len(tensors), use.step, 0, 0, 0, 0])
                homes.append([])
            row = rows[-1]
            row[2] |= use.kind != UseKind.DEFINE
            row[3] |= use.kind != UseKind.READ
            row[5] += use.bytes
            homes[-1].append(use.home_only)
        for row, home in zip(rows[first:], homes, strict=True):
            row[4] = 1 if all(home) else 2 if any(home) else 0
        holdable = tensor.holdable and tensor.is_parameter and not any(row[3] for row in rows[first:])
        flags = (int(tensor.is_output), int(tensor.hoistable), int(holdable))
        tensors.append((first, len(rows), tensor.size_bytes, *flags, index))
    groups = np.array(rows, dtype=np.int64).reshape(-1, GROUP_COLUMNS)
    return groups, np.array(tensors, dtype=np.int64).reshape(-1, TENSOR_COLUMNS)


def _loops(program: Program) -> tuple[I64, I64, I64]:
    """Return ``Rules.loops``, ``Rules.steps`` and ``Rules.boundaries``."""
    num_steps = program.num_steps
    loops = sorted((x for x in program.loops if x.trip_count > 1), key=lambda x: (x.start_step, -x.end_step))
    steps = np.zeros((num_steps, STEP_COLUMNS), dtype=np.int64)
    steps[:, TRIPS], steps[:, LOOP] = program.trip_counts, -1
    table = np.zeros((len(loops), LOOP_COLUMNS), dtype=np.int64)
    boundaries = np.zeros((num_steps + 1, BOUNDARY_COLUMNS), dtype=np.int64)
    boundaries[:, CONTEXT_TRIPS] = 1
    open_loops: list[tuple[int, Loop]] = []
    for i, loop in enumerate(loops):
        while open_loops and open_loops[-1][1].end_step <= loop.start_step:
            open_loops.pop()
        table[i] = loop.start_step, loop.end_step, open_loops[-1][0] if open_loops else -1
        open_loops.append((i, loop))
        steps[loop.start_step : loop.end_step, LOOP] = i
        inside = slice(loop.start_step + 1, loop.end_step)
        boundaries[inside, CONTEXT_TRIPS] *= int(loop.trip_count)
        boundaries[inside, CONTEXT] = i + 1
    return table, steps, boundaries
