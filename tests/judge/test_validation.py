"""The validator against a machine that really moves bytes, and against one mutation of every kind."""

from collections import Counter
from dataclasses import replace

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mallocgame.hierarchy import Hierarchy, Link
from mallocgame.judge.simulation import lower_bound, simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import HELD, HOME, Mapping, Residency, Transfer
from mallocgame.program import Instruction, Loop, Program, Tensor, Use, UseKind
from tests.judge.concrete import Machine
from tests.strategies import likely_mappings, loose_mappings, programs, small_hierarchy


def _cases(num_layers: int) -> st.SearchStrategy[tuple[Program, Mapping]]:
    memory = small_hierarchy(num_layers=num_layers)
    return programs().flatmap(
        lambda p: st.tuples(st.just(p), st.one_of(likely_mappings(p, memory), loose_mappings(p, memory)))
    )


def test_a_mapping_without_violations_runs_on_a_real_machine() -> None:
    seen: Counter[bool] = Counter()

    @settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.integers(2, 3).flatmap(lambda n: st.tuples(st.just(n), _cases(n))))
    def check(case: tuple[int, tuple[Program, Mapping]]) -> None:
        num_layers, (program, mapping) = case
        memory = small_hierarchy(num_layers=num_layers)
        violations = validate(program, memory, mapping)
        errors = Machine(program, memory, mapping).run()
        if mapping.residencies:
            seen[not violations] += 1
        if errors:
            assert violations, errors

    check()
    assert min(seen[True], seen[False]) > sum(seen.values()) / 20, "the property saw only one kind of mapping"


@settings(max_examples=800, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(_cases(2), st.data())
def test_a_mutated_mapping_that_breaks_the_machine_is_caught(
    case: tuple[Program, Mapping], data: st.DataObject
) -> None:
    program, mapping = case
    assume(mapping.residencies)
    mutant = _mutate(mapping, data)
    if Machine(program, small_hierarchy(), mutant).run():
        assert validate(program, small_hierarchy(), mutant)


def _mutate(mapping: Mapping, data: st.DataObject) -> Mapping:
    residencies, transfers = list(mapping.residencies), list(mapping.transfers)
    kind = data.draw(st.sampled_from(("shift", "shorten", "drop", "late", "early")))
    i = data.draw(st.integers(0, len(residencies) - 1))
    r = residencies[i]
    if kind == "shift":
        residencies[i] = replace(r, offset_bytes=data.draw(st.integers(0, 7)))
    elif kind == "shorten" and r.end_step - max(r.start_step, 0) > 1:
        residencies[i] = replace(r, end_step=r.end_step - 1)
    elif transfers:
        x = data.draw(st.integers(0, len(transfers) - 1))
        t = transfers[x]
        if kind == "drop":
            del transfers[x]
        elif kind == "late":
            transfers[x] = replace(t, done_before=t.done_before + 1)
        elif kind == "early" and t.start_after >= 0:
            transfers[x] = replace(t, start_after=t.start_after - 1)
    return Mapping(residencies=tuple(residencies), transfers=tuple(transfers))


# One program and one valid mapping in which every rule matters, and for each rule a change that breaks it alone.


def _program(trip_count: int = 3, **change: object) -> Program:
    instructions = tuple(
        Instruction(name=f"i{t}", compute_seconds=1.0, trip_count=trip_count if 2 <= t < 5 else 1) for t in range(8)
    )
    weight = Tensor(
        name="w", size_bytes=4, is_parameter=True, holdable=True, uses=(Use(step=1, bytes=4), Use(step=3, bytes=4))
    )
    carry = Tensor(
        name="c",
        size_bytes=4,
        is_output=True,
        uses=(
            Use(step=0, bytes=4, kind=UseKind.DEFINE),
            Use(step=3, bytes=4),
            Use(step=4, bytes=4, kind=UseKind.DEFINE),
        ),
    )
    pinned = Tensor(name="p", size_bytes=4, uses=(Use(step=6, bytes=4, kind=UseKind.DEFINE),), movable=False)
    tensors = [replace(weight, **change), carry, pinned]  # type: ignore[arg-type]
    loop = Loop(start_step=2, end_step=5, trip_count=trip_count)
    return Program(name="every rule", instructions=instructions, tensors=tuple(tensors), loops=(loop,))


MEMORY = small_hierarchy(16)
RESIDENCIES = (
    Residency(tensor=0, layer=1, offset_bytes=0, start_step=0, end_step=5),
    Residency(tensor=1, layer=1, offset_bytes=4, start_step=0, end_step=4),
    Residency(tensor=1, layer=1, offset_bytes=4, start_step=4, end_step=8),
)
TRANSFERS = (
    Transfer(tensor=0, source=HOME, target=0, start_after=-1, done_before=1, size_bytes=4),
    Transfer(tensor=1, source=2, target=HOME, start_after=4, done_before=7, size_bytes=4),
)


def _rules(
    residencies: tuple[Residency, ...] = RESIDENCIES,
    transfers: tuple[Transfer, ...] = TRANSFERS,
    *,
    program: Program | None = None,
    memory: Hierarchy = MEMORY,
) -> set[str]:
    mapping = Mapping(residencies=residencies, transfers=transfers)
    return {v.rule for v in validate(program or _program(), memory, mapping)}


def _with(index: int, **change: object) -> tuple[Residency, ...]:
    changed = list(RESIDENCIES)
    changed[index] = replace(changed[index], **change)  # type: ignore[arg-type]
    return tuple(changed)


def _moved(index: int, **change: object) -> tuple[Transfer, ...]:
    changed = list(TRANSFERS)
    changed[index] = replace(changed[index], **change)  # type: ignore[arg-type]
    return tuple(changed)


def test_the_example_is_valid() -> None:
    assert _rules() == set()
    assert not Machine(_program(), MEMORY, Mapping(residencies=RESIDENCIES, transfers=TRANSFERS)).run()


def test_every_rule_is_named() -> None:
    extra = Residency(tensor=2, layer=1, offset_bytes=8, start_step=6, end_step=8)
    held = Residency(tensor=0, layer=1, offset_bytes=0, start_step=HELD, end_step=5)
    narrow = replace(MEMORY, links=(replace(MEMORY.links[0], max_in_flight=1),))
    coarse = replace(MEMORY, layers=(MEMORY.layers[0], replace(MEMORY.layers[1], alignment_bytes=8)))
    twice = (*TRANSFERS, replace(TRANSFERS[1], start_after=5, done_before=7))
    assert _rules(_with(0, tensor=9)) == {"reference"}
    assert _rules(transfers=_moved(0, target=7)) == {"reference"}
    assert _rules(transfers=_moved(1, tensor=0)) == {"reference"}
    assert _rules((*RESIDENCIES, extra)) == {"movable"}
    assert _rules(_with(0, offset_bytes=14)) == {"capacity"}
    assert _rules(_with(0, offset_bytes=-1)) == {"capacity"}
    assert _rules(memory=coarse) == {"alignment"}
    assert _rules(_with(0, offset_bytes=3)) == {"overlap"}
    assert "one-place" in _rules((*RESIDENCIES, replace(RESIDENCIES[0], offset_bytes=12)))
    assert _rules(transfers=TRANSFERS[1:]) == {"fill", "stale"}
    assert _rules(transfers=_moved(0, size_bytes=3)) == {"fill"}
    assert _rules(_with(2, end_step=6)) == {"transfer"}
    assert _rules(transfers=_moved(1, size_bytes=3)) == {"transfer"}
    assert _rules(transfers=_moved(0, done_before=3)) == {"loop"}
    assert _rules(transfers=twice, memory=narrow) == {"in-flight"}
    assert _rules(program=_program(hoistable=False)) == {"hoist"}
    assert "held" in _rules((held, *RESIDENCIES[1:]), TRANSFERS[1:])
    assert "held" in _rules((held, *RESIDENCIES[1:]), TRANSFERS[1:], program=_program(holdable=False))
    assert _rules(transfers=TRANSFERS[:1]) == {"stale"}  # the output never comes home
    assert _rules(_with(2, offset_bytes=8)) == {"stale"}  # the next iteration looks where it was at first


def test_references_end_where_they_must() -> None:
    """Each name and span is legal up to its last value, and the next is told by the rule that says so."""
    held = Residency(tensor=0, layer=1, offset_bytes=0, start_step=HELD, end_step=0)
    places = [{"tensor": -1}, {"tensor": 3}, {"layer": 0}, {"layer": 2}, {"start_step": 5}, {"start_step": -2}]
    for place in [*places, {"end_step": 9}, {"start_step": 6}]:
        assert _rules(_with(0, **place), ()) == {"reference"}, place
    assert _rules((held,), ()) == {"reference"}  # ends before the first step
    copies: list[dict[str, int]] = [{"tensor": -1}, {"tensor": 3}, {"target": -2}, {"target": 3}, {"target": HOME}]
    spans: list[dict[str, int]] = [{"start_after": -2}, {"start_after": 1}, {"done_before": 9}, {"done_before": -1}]
    for copy in [*copies, *spans, {"size_bytes": 0}, {"size_bytes": -4}, {"target": 1}, {"source": 1}]:
        assert _rules(transfers=_moved(0, **copy)) == {"reference"}, copy
    assert _rules(transfers=_moved(1, done_before=8)) == set()
    twin = replace(RESIDENCIES[1], offset_bytes=12)
    within = Transfer(tensor=1, source=1, target=3, start_after=0, done_before=2, size_bytes=4)
    assert _rules((*RESIDENCIES, twin), (*TRANSFERS, within)) == {"reference"}  # no link within a layer


def test_a_copy_needs_its_places_while_it_runs() -> None:
    """Space from where it is issued to where it is waited for, and what it copies a step before that, too."""
    assert _rules(_with(0, start_step=1)) == {"transfer"}  # the copy begins a step before there is space
    assert _rules(_with(0, end_step=1), _moved(0, done_before=2)) >= {"transfer"}
    assert _rules(_with(2, start_step=5), _moved(1, start_after=4)) >= {"transfer"}  # nothing is there yet
    assert _rules(_with(2, end_step=7)) == set()
    assert _rules(_with(2, end_step=6), _moved(1, done_before=6)) == set()
    assert _rules(_with(2, end_step=5), _moved(1, done_before=5)) >= {"transfer"}  # gone when the copy is issued


def test_as_many_copies_are_in_flight_as_a_link_takes() -> None:
    back = TRANSFERS[1]
    for most, copies, is_broken in (
        (2, (back, back, back), True),
        (2, (back, back), False),
        (1, (replace(back, done_before=6), replace(back, start_after=5)), False),  # one after the other
        (1, (replace(back, done_before=7), replace(back, start_after=5)), True),
        (1, (back, replace(TRANSFERS[0], start_after=4, done_before=7)), False),  # each its own way
    ):
        memory = replace(MEMORY, links=(replace(MEMORY.links[0], max_in_flight=most),))
        assert ("in-flight" in _rules(transfers=(TRANSFERS[0], *copies), memory=memory)) == is_broken


def test_what_is_held_is_loaded_again_by_the_end() -> None:
    held = Residency(tensor=0, layer=1, offset_bytes=0, start_step=HELD, end_step=5)
    again = Residency(tensor=0, layer=1, offset_bytes=0, start_step=6, end_step=8)
    reload = Transfer(tensor=0, source=HOME, target=3, start_after=5, done_before=8, size_bytes=4)
    transfers = (TRANSFERS[1], reload)
    assert _rules((held, *RESIDENCIES[1:], again), transfers) == set()
    for change in ({"offset_bytes": 8}, {"end_step": 7}):
        assert "held" in _rules((held, *RESIDENCIES[1:], replace(again, **change)), transfers), change
    assert "held" in _rules((held, *RESIDENCIES[1:], again), (TRANSFERS[1], replace(reload, done_before=7)))
    defined = (Use(step=1, bytes=4, kind=UseKind.DEFINE), Use(step=3, bytes=4))
    for kind in ({"holdable": False}, {"is_parameter": False, "uses": defined}):
        assert "held" in _rules((held, *RESIDENCIES[1:], again), transfers, program=_program(**kind)), kind
    early = replace(reload, size_bytes=3, done_before=7)
    late = replace(reload, size_bytes=1, slice_offset_bytes=3)
    assert _rules((held, *RESIDENCIES[1:], again), (TRANSFERS[1], early, late)) == {"held"}  # one byte is not all of it
    halves = (TRANSFERS[1], replace(early, done_before=8), late)
    assert _rules((held, *RESIDENCIES[1:], again), halves) == set()


def test_slices_of_one_copy_share_their_loops() -> None:
    """Else what is copied once before a loop could be completed inside it, for one slice's price."""
    outside = replace(TRANSFERS[0], size_bytes=2, done_before=2)
    inside = replace(outside, start_after=2, done_before=3, slice_offset_bytes=2)
    assert "loop" in _rules(transfers=(outside, TRANSFERS[1], inside))
    assert _rules(transfers=(outside, TRANSFERS[1], inside), program=_program(trip_count=1)) == set()


def test_what_may_not_be_hoisted_may_be_copied_where_no_loop_repeats_its_use() -> None:
    fixed, once = _program(hoistable=False), _program(trip_count=1, hoistable=False)
    assert _rules(program=fixed) == {"hoist"}
    assert _rules(_with(0, end_step=2), program=fixed) == set()  # gone before the loop
    for step, rules in ((2, {"hoist"}), (4, {"hoist"}), (5, set())):  # the loop's first and last, and the next
        used = _program(hoistable=False, uses=(Use(step=1, bytes=4), Use(step=step, bytes=4)))
        assert _rules(_with(0, end_step=6), program=used) == rules
    assert _rules(program=once) == set()


def test_the_last_byte_of_a_layer_counts() -> None:
    """Residency 0 has 4 bytes: at 12 it fills the 16 bytes to the last, at 13 it is one byte too long."""
    assert _rules(_with(0, offset_bytes=12)) == set()
    assert _rules(_with(0, offset_bytes=13)) == {"capacity"}
    assert _rules(_with(0, offset_bytes=12), memory=small_hierarchy(15)) == {"capacity"}


def test_neighbours_may_touch_and_a_byte_less_overlaps() -> None:
    assert _rules(_with(0, offset_bytes=8)) == set()
    assert _rules(_with(0, offset_bytes=7)) == {"overlap"}


def _flight(kind: UseKind, after: int, due: int) -> tuple[Program, Mapping]:
    """A parameter that is copied in over [after + 1, due), written in layer 0 in step 2 and read in step 4."""
    uses = (Use(step=2, bytes=4, kind=kind, home_only=True), Use(step=4, bytes=4))
    tensor = Tensor(name="w", size_bytes=4, is_parameter=True, uses=uses)
    steps = tuple(Instruction(name=f"i{t}", compute_seconds=1.0) for t in range(5))
    program = Program(name="flight", instructions=steps, tensors=(tensor,))
    place = Residency(tensor=0, layer=1, offset_bytes=0, start_step=after + 1, end_step=5)
    copy = Transfer(tensor=0, source=HOME, target=0, start_after=after, done_before=due, size_bytes=4)
    return program, Mapping(residencies=(place,), transfers=(copy,))


def test_a_write_spoils_the_copy_that_is_under_way() -> None:
    for kind in (UseKind.DEFINE, UseKind.UPDATE):
        for after, due, spoiled in ((1, 3, True), (0, 4, True), (2, 3, False), (2, 4, False)):
            program, mapping = _flight(kind, after, due)
            found = validate(program, MEMORY, mapping)
            assert [(v.rule, v.step) for v in found] == ([("stale", 4)] if spoiled else [])
            assert bool(Machine(program, MEMORY, mapping).run()) == spoiled


def test_a_write_back_under_way_is_spoiled_by_a_later_write() -> None:
    """What comes home is what was there when the copy began; after it the place was written again."""
    define = UseKind.DEFINE
    uses = (Use(step=0, bytes=4, kind=define), Use(step=2, bytes=4, kind=UseKind.UPDATE))
    tensor = Tensor(name="r", size_bytes=4, is_output=True, uses=uses)
    steps = tuple(Instruction(name=f"i{t}", compute_seconds=1.0) for t in range(4))
    program = Program(name="back", instructions=steps, tensors=(tensor,))
    place = Residency(tensor=0, layer=1, offset_bytes=0, start_step=0, end_step=4)
    for after, due, rules in ((0, 3, {"stale"}), (2, 4, set()), (3, 4, set()), (0, 2, {"stale"})):
        copy = Transfer(tensor=0, source=0, target=HOME, start_after=after, done_before=due, size_bytes=4)
        assert _rules((place,), (copy,), program=program) == rules


def _three_layers() -> tuple[Program, Hierarchy]:
    weight = Tensor(name="w", size_bytes=8, is_parameter=True, holdable=True, uses=(Use(step=2, bytes=8),))
    steps = tuple(Instruction(name=f"i{t}", compute_seconds=1.0) for t in range(4))
    return Program(name="chain", instructions=steps, tensors=(weight,)), small_hierarchy(16, num_layers=3)


def test_a_chain_of_copies_takes_each_in_turn() -> None:
    """The second copy reads what the first brings: it can be issued once that is there, not together with it."""
    program, memory = _three_layers()
    places = tuple(Residency(tensor=0, layer=k, offset_bytes=0, start_step=0, end_step=4) for k in (1, 2))

    def chain(first: tuple[int, int], second: tuple[int, int]) -> set[str]:
        transfers = (
            Transfer(tensor=0, source=HOME, target=0, start_after=first[0], done_before=first[1], size_bytes=8),
            Transfer(tensor=0, source=0, target=1, start_after=second[0], done_before=second[1], size_bytes=8),
        )
        mapping = Mapping(residencies=places, transfers=transfers)
        broken = {v.rule for v in validate(program, memory, mapping)}
        assert bool(broken) == bool(Machine(program, memory, mapping).run())
        return broken

    assert chain((-1, 1), (0, 2)) == set()
    assert chain((0, 2), (1, 2)) == set()  # waited for at boundary 2, then the second: both are paid
    assert chain((1, 2), (1, 2)) == {"stale"}  # both issued and due at boundary 2
    assert chain((-1, 2), (0, 2)) == {"stale"}


def test_what_one_link_brings_another_takes_on_a_boundary_later() -> None:
    program, memory = _three_layers()[0], small_hierarchy(16, num_layers=4)
    for layers, hops, rules in (
        ((2, 1), ((1, 2), (1, 2)), {"stale"}),  # by way of the fastest layer, both at boundary 2
        ((2, 1), ((0, 1), (1, 2)), set()),
        ((1, 2, 3), ((-1, 1), (1, 2), (1, 2)), {"stale"}),
        ((1, 2, 3), ((-1, 1), (1, 2), (2, 3)), set()),
    ):
        places = tuple(Residency(tensor=0, layer=k, offset_bytes=0, start_step=0, end_step=4) for k in layers)
        copies = tuple(
            Transfer(tensor=0, source=k - 1, target=k, start_after=after, done_before=due, size_bytes=8)
            for k, (after, due) in enumerate(hops)
        )
        assert _rules(places, copies, program=program, memory=memory) == rules
        machine = Machine(program, memory, Mapping(residencies=places, transfers=copies))
        assert bool(machine.run()) == bool(rules)


def test_what_one_link_brings_home_another_takes_on_a_boundary_later() -> None:
    """Written in layer 2, written back at boundary 2, copied into a fast layer for step 3: by the same link, or not."""
    uses = (Use(step=0, bytes=8, kind=UseKind.DEFINE), Use(step=3, bytes=8))
    tensor = Tensor(name="a", size_bytes=8, uses=uses)
    steps = tuple(Instruction(name=f"i{t}", compute_seconds=1.0) for t in range(4))
    program = Program(name="home", instructions=steps, tensors=(tensor,))
    apart = small_hierarchy(16, num_layers=3)
    shared = Link(name="home", pairs=((0, 1), (0, 2)), bytes_per_second=1.0, shared_layer=0)
    together = replace(apart, links=(shared, Link(name="1-2", pairs=((1, 2),), bytes_per_second=1.0, shared_layer=1)))
    for memory, layer, issue, rules in (
        (apart, 1, 1, {"stale"}),
        (apart, 1, 2, set()),
        (apart, 2, 1, set()),
        (together, 1, 1, set()),
    ):
        places = (
            Residency(tensor=0, layer=2, offset_bytes=0, start_step=0, end_step=3),
            Residency(tensor=0, layer=layer, offset_bytes=8, start_step=issue + 1, end_step=4),
        )
        copies = (
            Transfer(tensor=0, source=0, target=HOME, start_after=1, done_before=2, size_bytes=8),
            Transfer(tensor=0, source=HOME, target=1, start_after=issue, done_before=3, size_bytes=8),
        )
        assert _rules(places, copies, program=program, memory=memory) == rules
        assert bool(Machine(program, memory, Mapping(residencies=places, transfers=copies)).run()) == bool(rules)


def test_a_weight_may_stay_for_ever_below_the_fastest_layer() -> None:
    program, memory = _three_layers()
    for layer, rules in ((1, set()), (2, {"held"})):
        for_ever = Residency(tensor=0, layer=layer, offset_bytes=0, start_step=HELD, end_step=4)
        assert _rules((for_ever,), (), program=program, memory=memory) == rules
    mapping = Mapping(residencies=(Residency(tensor=0, layer=1, offset_bytes=0, start_step=HELD, end_step=4),))
    assert not Machine(program, memory, mapping).run()
    assert lower_bound(program, memory) <= simulate(program, memory, mapping).total_seconds
    written = replace(program.tensors[0], uses=(Use(step=2, bytes=8, kind=UseKind.UPDATE),))
    changed = replace(program, tensors=(written,))
    assert _rules(mapping.residencies, (), program=changed, memory=memory) == {"stale"}
