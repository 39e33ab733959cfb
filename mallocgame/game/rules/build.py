"""From a program and a hierarchy to the rules' arrays."""

import numpy as np

from mallocgame.collapse import is_straight
from mallocgame.game.rules.state import (
    ANYWHERE,
    AT_HOME,
    MIXED,
    Boundaries,
    Groups,
    Links,
    Loops,
    Movables,
    Moves,
    Rules,
    Size,
    State,
    Steps,
    make_layout,
    rules_in,
)
from mallocgame.game.rules.views import I64
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge import timeline
from mallocgame.program import Loop, Program, UseKind


def build_rules(program: Program, hierarchy: Hierarchy) -> Rules:
    """Return the arrays that do not change; ``program`` is straight: see ``mallocgame.collapse``."""
    assert is_straight(program)
    num_layers, num_links = hierarchy.num_layers, len(hierarchy.links)
    groups, tensors = _groups(program)
    decisions = np.flatnonzero(groups[:, Groups.HOME_ONLY] == ANYWHERE)
    decisions = decisions[np.lexsort((groups[decisions, Groups.TENSOR], groups[decisions, Groups.STEP]))]
    loops, steps, boundaries = _loops(program)
    home_bytes = program.fixed_bytes(num_layers)
    np.add.at(home_bytes[:, 0], program.uses.step, program.uses.bytes)
    link_of = np.full((num_layers, num_layers), -1, dtype=np.int64)
    for k, link in enumerate(hierarchy.links):
        for a, b in link.pairs:
            link_of[a, b] = link_of[b, a] = k
    shared = [(-1 if x.shared_layer is None else x.shared_layer, x.max_in_flight) for x in hierarchy.links]
    layout = make_layout(
        steps=program.num_steps,
        layers=num_layers,
        links=num_links,
        groups=len(groups),
        decisions=len(decisions),
        tensors=len(tensors),
        loops=len(loops),
    )
    rules = rules_in(np.zeros(layout[Size.RULE_INTS], dtype=np.int64), np.zeros(layout[Size.RULE_FLOATS]))
    rules.ints[: len(layout)] = layout
    rules.groups[:], rules.decisions[:], rules.tensors[:] = groups, decisions, tensors
    rules.loops[:], rules.steps[:], rules.boundaries[:] = loops, steps, boundaries
    rules.home_bytes[:] = home_bytes
    rules.layers[:] = [(x.capacity_bytes, x.alignment_bytes) for x in hierarchy.layers]
    rules.links[:] = np.array(shared, dtype=np.int64).reshape(num_links, len(Links))
    rules.link_of[:] = link_of
    rules.compute[:] = program.compute_seconds
    rules.layer_speed[:] = [x.bytes_per_second for x in hierarchy.layers]
    rules.link_speed[:] = [x.bytes_per_second for x in hierarchy.links]
    rules.latency[:] = [x.latency_seconds for x in hierarchy.links]
    rules.home_seconds[0] = build_start(rules).total[0]
    return rules


def build_start(rules: Rules) -> State:
    """Return the state in which nothing is decided."""
    layout = rules.layout
    s = State(layout, np.zeros(layout[Size.STATE_INTS], dtype=np.int64), np.zeros(layout[Size.STATE_FLOATS]))
    s.served[:] = -1
    s.copies[:, Moves.QUEUE] = -1
    s.current[:] = -1
    s.latest[:] = -1
    s.due_first[:] = -1
    s.heads[:] = -1
    s.layer_bytes[:] = rules.home_bytes
    shared = np.ascontiguousarray(rules.links[:, Links.SHARED])
    trips = np.ascontiguousarray(rules.steps[:, Steps.TRIPS])
    timeline.instruction_times(rules.compute, trips, s.layer_bytes, rules.layer_speed, shared, s.elapsed, s.idle)
    s.total[0] = s.elapsed.sum()
    return s


def _groups(program: Program) -> tuple[I64, I64]:
    """Return ``Rules.groups`` and ``Rules.tensors``."""
    rows: list[list[int]] = []
    tensors: list[tuple[int, ...]] = []
    for index, tensor in enumerate(program.tensors):
        if not tensor.movable or not tensor.uses:
            continue
        first = len(rows)
        homes: list[list[bool]] = []
        for use in tensor.uses:
            if len(rows) == first or rows[-1][Groups.STEP] != use.step:
                rows.append([len(tensors), use.step, *[0] * (len(Groups) - 2)])
                homes.append([])
            row = rows[-1]
            row[Groups.READS] |= use.kind != UseKind.DEFINE
            row[Groups.WRITES] |= use.kind != UseKind.READ
            row[Groups.BYTES] += use.bytes
            homes[-1].append(use.home_only)
        for row, home in zip(rows[first:], homes, strict=True):
            row[Groups.HOME_ONLY] = AT_HOME if all(home) else MIXED if any(home) else ANYWHERE
        holdable = tensor.holdable and tensor.is_parameter and not any(row[Groups.WRITES] for row in rows[first:])
        flags = (int(tensor.is_output), int(tensor.hoistable), int(holdable))
        tensors.append((first, len(rows), tensor.size_bytes, *flags, index))
    groups = np.array(rows, dtype=np.int64).reshape(-1, len(Groups))
    return groups, np.array(tensors, dtype=np.int64).reshape(-1, len(Movables))


def _loops(program: Program) -> tuple[I64, I64, I64]:
    """Return ``Rules.loops``, ``Rules.steps`` and ``Rules.boundaries``."""
    num_steps = program.num_steps
    loops = sorted((x for x in program.loops if x.trip_count > 1), key=lambda x: (x.start_step, -x.end_step))
    steps = np.zeros((num_steps, len(Steps)), dtype=np.int64)
    steps[:, Steps.TRIPS], steps[:, Steps.LOOP] = program.trip_counts, -1
    table = np.zeros((len(loops), len(Loops)), dtype=np.int64)
    boundaries = np.zeros((num_steps + 1, len(Boundaries)), dtype=np.int64)
    boundaries[:, Boundaries.CONTEXT_TRIPS] = 1
    open_loops: list[tuple[int, Loop]] = []
    for i, loop in enumerate(loops):
        while open_loops and open_loops[-1][1].end_step <= loop.start_step:
            open_loops.pop()
        table[i] = loop.start_step, loop.end_step, open_loops[-1][0] if open_loops else -1
        open_loops.append((i, loop))
        steps[loop.start_step : loop.end_step, Steps.LOOP] = i
        inside = slice(loop.start_step + 1, loop.end_step)
        boundaries[inside, Boundaries.CONTEXT_TRIPS] *= int(loop.trip_count)
        boundaries[inside, Boundaries.CONTEXT] = i + 1
    return table, steps, boundaries
