"""Random programs small enough to enumerate every mapping of."""

import random

from mallocgame.hierarchy import Hierarchy, Link, MemoryLayer
from mallocgame.program import Instruction, Loop, Program, Tensor, Use, UseKind


def tiny_program(seed: int, *, num_steps: int = 4, num_tensors: int = 2) -> Program:
    """Return a program with parameters, outputs, updates, loops, home-only uses and immovable or held tensors."""
    rng = random.Random(seed)
    loops = []
    if rng.random() < 0.5:
        start = rng.randrange(num_steps)
        loops.append(
            Loop(start_step=start, end_step=rng.randint(start + 1, num_steps), trip_count=rng.choice([1, 2, 5]))
        )
        inside = loops[0]
        if rng.random() < 0.3 and inside.end_step - inside.start_step > 1:
            first = rng.randrange(inside.start_step, inside.end_step)
            last = rng.randint(first + 1, inside.end_step)
            loops.append(Loop(start_step=first, end_step=last, trip_count=rng.choice([2, 3])))
    instructions = []
    for step in range(num_steps):
        trips = 1
        for loop in loops:
            trips *= loop.trip_count if loop.start_step <= step < loop.end_step else 1
        fixed = (rng.choice([0, 0, 3]), rng.choice([0, 2]))
        seconds = rng.choice([0.0, 1.0, 2.0, 4.0])
        instructions.append(Instruction(name=f"i{step}", compute_seconds=seconds, trip_count=trips, fixed_bytes=fixed))
    tensors = tuple(_tensor(rng, index, num_steps) for index in range(num_tensors))
    return Program(name=f"tiny-{seed}", instructions=tuple(instructions), tensors=tensors, loops=tuple(loops))


def _tensor(rng: random.Random, index: int, num_steps: int) -> Tensor:
    parameter = rng.random() < 0.5
    count = rng.randint(1, num_steps)
    steps = sorted(rng.sample(range(num_steps), count))
    uses = []
    for position, step in enumerate(steps):
        kind = rng.choice([UseKind.READ, UseKind.READ, UseKind.READ, UseKind.UPDATE, UseKind.DEFINE])
        if position == 0 and not parameter:
            kind = UseKind.DEFINE
        home_only = rng.random() < 0.1
        uses.append(Use(step=step, bytes=rng.choice([0, 1, 2, 3, 4, 6]), kind=kind, home_only=home_only))
        if rng.random() < 0.15 and (parameter or position > 0):
            again = Use(step=step, bytes=rng.choice([1, 2]), operand=1, home_only=rng.random() < 0.3)
            uses.append(again)
    return Tensor(
        name=f"t{index}",
        size_bytes=rng.choice([1, 2, 3, 4]),
        uses=tuple(uses),
        is_parameter=parameter,
        is_output=rng.random() < 0.3,
        movable=rng.random() < 0.95,
        holdable=parameter and rng.random() < 0.3,
        hoistable=rng.random() < 0.7,
    )


def tiny_hierarchy(seed: int) -> Hierarchy:
    """Return two layers whose smaller one holds a tensor or two."""
    rng = random.Random(seed)
    home = MemoryLayer(name="home", capacity_bytes=1000, bytes_per_second=1.0)
    grain = rng.choice([1, 1, 2])
    fast = MemoryLayer(
        name="fast",
        capacity_bytes=rng.choice([2, 3, 4, 5, 6]),
        bytes_per_second=rng.choice([4.0, 10.0, 0.8]) if rng.random() < 0.3 else 8.0,
        alignment_bytes=grain,
    )
    link = Link(
        name="link",
        pairs=((0, 1),),
        bytes_per_second=rng.choice([1.0, 2.0]),
        shared_layer=rng.choice([0, 0, None, 1]),
        latency_seconds=rng.choice([0.0, 0.0, 0.5]),
    )
    return Hierarchy(name="tiny", layers=(home, fast), links=(link,))


def deep_hierarchy(seed: int) -> Hierarchy:
    """Return three layers: one link from layer 0 to both others, one between those."""
    rng = random.Random(seed)
    layers = tuple(
        MemoryLayer(name=name, capacity_bytes=size, bytes_per_second=speed)
        for name, size, speed in (
            ("disk", 1000, 1.0),
            ("near", rng.choice([3, 4, 6]), 4.0),
            ("nearest", rng.choice([2, 3, 4]), 16.0),
        )
    )
    links = (
        Link(name="out", pairs=((0, 1), (0, 2)), bytes_per_second=1.0, shared_layer=rng.choice([0, None])),
        Link(name="in", pairs=((1, 2),), bytes_per_second=4.0, shared_layer=rng.choice([1, None])),
    )
    return Hierarchy(name="deep", layers=layers, links=links)
