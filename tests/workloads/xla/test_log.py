"""The reader of XLA's logs: a real log read back, and damaged ones refused."""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.errors import InputError, TraceError
from mallocgame.hierarchy import preset
from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import HOME
from mallocgame.program import Loop, UseKind
from mallocgame.workloads.capture import trace_from_files
from mallocgame.workloads.hlo.aliases import alias_groups
from mallocgame.workloads.hlo.module import leaves, parse_hlo
from mallocgame.workloads.trace import Trace
from mallocgame.workloads.xla.log import LogReader, parse_log
from mallocgame.workloads.xla.loops import trip_count
from mallocgame.workloads.xla.records import parse_position
from mallocgame.workloads.xla.times import NEST_FACTOR, Observation, StepFacts, solve_step
from tests.paths import DATA

V5E = preset("v5e")


@cache
def lines() -> tuple[str, ...]:
    return tuple((DATA / "lstm-v5e.log").read_text(encoding="utf-8").splitlines())


def read(log: tuple[str, ...] | list[str], folder: Path) -> Trace:
    (folder / "log").write_text("\n".join(log), encoding="utf-8")
    dump = folder / "module_0000.jit_run.0001.Pre_memory_space_assignment.after_plumb-vmem-info.before_x.txt"
    dump.write_text((DATA / "lstm-v5e.hlo").read_text(encoding="utf-8"), encoding="utf-8")
    return trace_from_files(folder / "log", folder, "v5e", name="lstm")


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return read(lines(), tmp_path_factory.mktemp("lstm"))


def test_real_log_becomes_the_program_it_is_about(trace: Trace) -> None:
    program = trace.program
    (loop,) = program.loops
    assert (program.num_steps, loop.trip_count) == (46, 64)
    weights = [t for t in program.tensors if t.size_bytes == 8 * 2**20]
    assert len(weights) == 2
    assert all(t.is_parameter and not t.is_output for t in weights)
    for weight in weights:  # each is read whole by one instruction of the loop's body
        assert [(u.kind, u.bytes, loop.start_step <= u.step < loop.end_step) for u in weight.uses] == [
            (UseKind.READ, 8 * 2**20, True)
        ]
    output = next(t for t in program.tensors if t.is_output)
    assert output.size_bytes == 64 * 32 * 1024 * 2
    assert any(u.kind == UseKind.UPDATE for u in output.uses)  # written slice by slice, in place
    sources = {i.source for i in program.instructions if i.opcode == "fusion"}
    assert any(re.fullmatch(r"workloads/models/\w+\.py:\d+", source) for source in sources)


def test_carried_state_is_one_tensor_with_two_definitions(trace: Trace) -> None:
    loop = trace.program.loops[0]
    carried = [
        t
        for t in trace.program.tensors
        if sum(u.kind == UseKind.DEFINE for u in t.uses) == 2 and t.uses[0].step < loop.start_step
    ]
    assert len(carried) == 2
    for tensor in carried:
        assert tensor.uses[-1].step < loop.end_step
        assert tensor.uses[-1].kind == UseKind.DEFINE


def test_compilers_own_mapping_is_valid_and_copies_a_weight_in_every_iteration(trace: Trace) -> None:
    assert trace.mapping is not None
    assert validate(trace.program, trace.hierarchy, trace.mapping) == []
    line = simulate(trace.program, trace.hierarchy, trace.mapping)
    assert line.total_seconds == pytest.approx(1.5604e-3, rel=1e-3)  # XLA says 0.827 ms
    assert trace.estimates["xla_seconds"] == pytest.approx(0.8269e-3, rel=1e-3)
    loop = trace.program.loops[0]
    copied = [x for x in trace.mapping.transfers if loop.contains_boundary(x.start_after + 1) and x.target != HOME]
    assert sum(x.size_bytes for x in copied) == 8 * 2**20


def test_memory_of_the_log_is_used(trace: Trace) -> None:
    layer = trace.hierarchy.layers[1]
    assert (layer.capacity_bytes, layer.alignment_bytes) == (117440512, 4096)
    assert trace.hierarchy.links[0].max_in_flight == 40


def test_anonymised_trace_tells_no_names(tmp_path: Path) -> None:
    read(lines(), tmp_path)
    hidden = trace_from_files(tmp_path / "log", tmp_path, "v5e", hide=True)
    text = repr(hidden)
    for word in ("lstm", "parameters", "layers.py", "convolution", "region"):
        assert word not in text.replace("opcode='convolution'", "")
    assert hidden.mapping is not None
    assert simulate(hidden.program, hidden.hierarchy, hidden.mapping).total_seconds > 1.5e-3


def test_unknown_line_format_is_named_by_line(tmp_path: Path) -> None:
    changed = list(lines())
    at = next(i for i, line in enumerate(changed) if "Initial resource[7]" in line)
    changed[at] = changed[at].replace(" = ", " takes ")
    with pytest.raises(TraceError) as error:
        read(changed, tmp_path)
    assert f"log:{at + 1}:" in str(error.value)


@pytest.mark.parametrize(
    ("pattern", "new", "reason"),
    [
        (r"buffer_id,buffer_name", "id,name", "unknown columns"),
        (r"max_size_in_bytes: \d+", "max_size_in_bytes: many", "lack a number"),
        (r"PinnedAllocation in alt", "FloatingAllocation in alt", "unknown kind"),
        (r"Estimated elapsed time with async.*", "", "cut short"),
        (r".*memory_space_assignment_options::Options:", "", "at the needed verbosity"),
        (r".*instruction: .*; elapsed", "", "simulator"),
        (r" (\d+): (\S+) fusion", r" \1: \2 fusio", "has no instruction"),
        (r"trip count: 64", "trip count: 65", "runs 64 times"),
        (r"accessed: 8388608 /", "accessed: 18388608 /", "do not reconcile"),
    ],
)
def test_changed_logs_are_refused(tmp_path: Path, pattern: str, new: str, reason: str) -> None:
    changed = [re.sub(pattern, new, line) for line in lines()]
    assert changed != list(lines())
    with pytest.raises(InputError, match=reason):
        read(changed, tmp_path)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_logs_give_an_error_or_a_valid_trace(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    damaged = list(lines())
    for _ in range(data.draw(st.integers(1, 3))):
        action = data.draw(st.sampled_from(("cut", "drop", "swap", "twice", "digits", "letters")))
        at = data.draw(st.integers(0, len(damaged) - 1))
        line = damaged[at]
        if action == "cut":
            damaged = damaged[: at + 1]
            damaged[-1] = line[: data.draw(st.integers(0, len(line)))]
        elif action == "drop":
            del damaged[at]
        elif action == "swap":
            other = data.draw(st.integers(0, len(damaged) - 1))
            damaged[at], damaged[other] = damaged[other], damaged[at]
        elif action == "twice":
            damaged.insert(at, line)
        elif action == "digits":
            new = data.draw(st.sampled_from(("0", "-1", "nan", "1e400", "99999999999999999999", "")))
            damaged[at] = re.sub(r"\d+(?=\D*$)", new, line)
        else:
            position = data.draw(st.integers(0, len(line)))
            damaged[at] = line[:position] + data.draw(st.text(max_size=3)).replace("\n", " ") + line[position + 1 :]
        if not damaged:
            return
    folder = tmp_path_factory.mktemp("damaged")
    try:
        trace = read(damaged, folder)
    except InputError:
        return
    assert trace.mapping is not None
    assert validate(trace.program, trace.hierarchy, trace.mapping) == []


@given(st.binary(max_size=400))
def test_any_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "log").write_bytes(data)
    (folder / "a.Pre_memory_space_assignment.txt").write_bytes(data)
    with pytest.raises(InputError):
        trace_from_files(folder / "log", folder, "v5e")
    with pytest.raises(InputError):
        parse_hlo(data.decode("latin-1"))


def test_empty_tables_are_read_over() -> None:
    reader = LogReader("x")
    prefix = "I1123 10:00:00.000000       1 algorithm.cc:1] "
    summary = "Sync copy replacement summary: "
    text = ["Debug buffer info: ", summary, "Debug allocation info: ", summary, "Initial resource[0] = 1e-06 (a)"]
    for number, line in enumerate(text):
        reader.read(number, prefix + line)
    assert (reader.log.buffers, reader.log.intervals, reader.log.home_seconds) == ([], set(), {0: 1e-6})


def test_unknown_extent_of_an_access_is_kept_apart() -> None:
    reader = LogReader("x")
    prefix = "I1123 10:00:00.000000       1 algorithm.cc:1] "
    for _ in range(2):
        reader.read(1, f"{prefix}    use: custom-call.1, operand 0, accessed: -1 / 4096")
        reader.read(2, f"{prefix}    pos: fusion.1, accessed: 512 / 4096")
    assert list(reader.log.unknown_bytes.values()) == [4096]
    assert list(reader.log.accessed_bytes.values()) == [512]
    with pytest.raises(TraceError, match="-2 bytes"):
        reader.read(3, f"{prefix}    use: custom-call.1, operand 0, accessed: -2 / 4096")


def test_positions() -> None:
    place = parse_position("while.1, operand 0 {5,1}")
    assert place is not None
    assert (place.instruction, place.operand, place.index) == ("while.1", 0, (5, 1))
    place = parse_position("fusion.2 {1}")
    assert place is not None
    assert (place.instruction, place.operand, place.index) == ("fusion.2", -1, (1,))
    assert parse_position("a b c") is None


def test_sliced_copies_follow_a_repacking_that_permutes_them() -> None:
    prefix = "I1123 10:00:00.000000       1 algorithm.cc:1] "
    sliced = (
        "Sliced Copy Allocation in alt (off: {}), start_time:3, end_time:9, first_slice_copy_start_after_time: 2, "
        "last_slice_copy_done_before_time: 9, uses: use, operand 0, sync_mem_op: none, from PinnedAllocation in def "
        "defined at weight, start_time:0, end_time:9, uses: none"
    )
    text = [
        "Finding allocation for x use = use, operand 0. Size = 20480, def pos = weight",
        "Moving buffer to alternate memory in slices. Slices(start_time, offset, size) = "
        "[(2, 16384, 4096), (4, 8192, 8192), (4, 0, 8192)]. Heap",
        "Sliced copy to alternate memory. Slices(a, b, c, d) = [(2, 9, 9, 1e-6), (4, 9, 9, 1e-6), (4, 9, 9, 1e-6)]",
        "Repacking move. offset: 0 -> 0; size: 20480; slice_offsets: [16384 -> 0, 8192 -> 16384, 0 -> 8192]; "
        "Allocation: " + sliced.format(0),
        "Processing: " + sliced.format(0),
    ]
    with pytest.raises(TraceError, match="verbosity"):
        parse_log((prefix + line for line in text), "x")
    reader = LogReader("x")
    for number, line in enumerate(text):
        reader.read(number, prefix + line)
    (row,) = reader.log.allocations
    assert [(p.start_after, p.offset_bytes, p.size_bytes) for p in row.slices] == [
        (2, 0, 8192),
        (4, 16384, 4096),
        (4, 8192, 8192),
    ]


HLO = """HloModule jit_run, is_scheduled=true, input_output_alias={{ {{0}}: (1, {{}}, may-alias) }}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %p = (s32[], f32[8]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %one = s32[] constant({step})
  %next = s32[] add(%i, %one)
  %v = f32[8] get-tuple-element(%p), index=1
  %w = f32[8] dynamic-update-slice(%v, %v, %i)
  ROOT %t = (s32[], f32[8]) tuple(%next, %w)
}}

%cond (q: (s32[], f32[8])) -> pred[] {{
  %q = (s32[], f32[8]) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %limit = s32[] constant({limit})
  ROOT %less = pred[] compare(%j, %limit), direction={direction}
}}

ENTRY %main (a: f32[8], b: f32[8]) -> (f32[8], f32[8]) {{
  %a = f32[8] parameter(0)
  %b = f32[8] parameter(1)
  %zero = s32[] constant({start})
  %c = f32[8] copy(%a)
  %init = (s32[], f32[8]) tuple(%zero, %c)
  %loop = (s32[], f32[8]) while(%init), condition=%cond, body=%body
  %r = f32[8] get-tuple-element(%loop), index=1
  %n = f32[8]{{0:T(256)}} negate(%b), metadata={{op_name="x" source_file="a.py" source_line=7}}
  ROOT %out = (f32[8], f32[8]) tuple(%n, %r)
}}
"""


def module(**values: object) -> str:
    return HLO.format(**{"step": 1, "limit": 12, "start": 0, "direction": "LT", **values})


def test_alias_groups_follow_loops_in_place_writes_and_donations() -> None:
    parsed = parse_hlo(module())
    aliases = alias_groups(parsed)
    carried = {
        aliases.find(place) for place in [("c", ()), ("loop", (1,)), ("w", ()), ("v", ()), ("p", (1,)), ("r", ())]
    }
    assert len(carried) == 1
    assert aliases.find(("out", (1,))) in carried
    assert aliases.find(("a", ())) not in carried
    assert aliases.find(("n", ())) == aliases.find(("b", ()))  # donated
    assert aliases.in_place[("w", ())] == 0
    assert parsed.source(aliases.instruction("n")) == "a.py:7"


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ({}, 12),
        ({"step": 5}, 3),
        ({"direction": "LE"}, 13),
        ({"start": 2, "direction": "NE", "step": 2}, 5),
        ({"start": 20, "limit": 3, "step": -4, "direction": "GT"}, 5),
        ({"start": 20}, 0),
        ({"direction": "NE", "step": 5}, None),
        ({"step": 0}, None),
    ],
)
def test_trip_counts(values: dict[str, object], count: int | None) -> None:
    aliases = alias_groups(parse_hlo(module(**values)))
    assert trip_count(aliases, aliases.loops[0]) == count


@pytest.mark.parametrize("way", ["fusion", "call", "several"])
def test_trip_counts_are_seen_through_fusions_and_calls(way: str) -> None:
    role = "to_apply" if way == "call" else "kind=kLoop, calls"
    opcode = "call" if way == "call" else "fusion"
    fused = """
%less_fused (x: s32[], y: s32[]) -> pred[] {
  %x = s32[] parameter(0)
  %y = s32[] parameter(1)
  ROOT %t1 = pred[] compare(%x, %y), direction=LT
}

%next_fused (x2: s32[]) -> s32[] {
  %x2 = s32[] parameter(0)
  %y2 = s32[] constant(3)
  ROOT %t2 = s32[] add(%y2, %x2)
}

%pair_fused (x3: s32[]) -> (s32[], s32[]) {
  %x3 = s32[] parameter(0)
  %y3 = s32[] constant(3)
  %t3 = s32[] add(%x3, %y3)
  ROOT %t4 = (s32[], s32[]) tuple(%x3, %t3)
}
"""
    text = module().replace("\n\n", f"\n{fused}\n", 1)
    text = text.replace("compare(%j, %limit), direction=LT", f"{opcode}(%j, %limit), {role}=%less_fused")
    if way == "several":
        pair = "%pair = (s32[], s32[]) fusion(%i), kind=kLoop, calls=%pair_fused"
        text = text.replace("%next = s32[] add(%i, %one)", f"{pair}\n  %next = s32[] get-tuple-element(%pair), index=1")
    else:
        text = text.replace("%next = s32[] add(%i, %one)", f"%next = s32[] {opcode}(%i), {role}=%next_fused")
    aliases = alias_groups(parse_hlo(text))
    assert trip_count(aliases, aliases.loops[0]) == 4


def test_trip_count_that_depends_on_data_is_unknown() -> None:
    text = module().replace("%zero = s32[] constant(0)", "%zero = s32[] reduce(%a)")
    aliases = alias_groups(parse_hlo(text))
    assert trip_count(aliases, aliases.loops[0]) is None


@pytest.mark.parametrize(
    ("opcode", "reason"),
    [("conditional", "needs 2 operands"), ("copy-start", "gives a tuple"), ("while", "needs a cond")],
)
def test_impossible_instructions_are_refused_by_name(opcode: str, reason: str) -> None:
    with pytest.raises(TraceError, match=f"c: .*{reason}"):
        alias_groups(parse_hlo(module().replace("%c = f32[8] copy", f"%c = f32[8] {opcode}")))


def test_shapes_and_fused_in_place_writes() -> None:
    text = """HloModule m

%fused (x: f32[8], y: f32[2]) -> (f32[2], f32[8]) {
  %x = f32[8] parameter(0)
  %y = f32[2] parameter(1)
  %z = f32[8]{0:T(256)} bitcast(%x)
  %d = f32[8] dynamic-update-slice(%z, %y, %y)
  ROOT %t = (f32[2], f32[8]) tuple(%y, %d)
}

ENTRY %main (x: f32[8], y: f32[2]) -> (f32[2], f32[8]) {
  %x.1 = f32[8] parameter(0)
  %y.1 = f32[2] parameter(1)
  ROOT %f = (f32[2]{0:T(8,128)(2,1)}, /*index=1*/f32[8]) fusion(f32[8] %x.1, %y.1), kind=kLoop, calls=%fused
}
"""
    parsed = parse_hlo(text)
    root = parsed.computations["main"].instructions["f"]
    assert list(leaves(root.shape)) == [((0,), "f32[2]{0:T(8,128)(2,1)}"), ((1,), "f32[8]")]
    assert root.operands == ("x.1", "y.1")
    aliases = alias_groups(parsed)
    assert aliases.find(("f", (1,))) == aliases.find(("x.1", ()))
    assert aliases.find(("f", (0,))) != aliases.find(("y.1", ()))


@given(
    st.lists(st.tuples(st.integers(1, 2**28), st.booleans()), min_size=1, max_size=5),
    st.floats(1e-7, 1e-3),
    st.integers(0, 2**27),
)
def test_times_are_recovered_from_the_cost_model(accesses: list[tuple[int, bool]], compute: float, fixed: int) -> None:
    """Make a log from known times as XLA's cost model does, in six digits, and solve for them."""
    home, fast = (layer.bytes_per_second for layer in V5E.layers)
    sizes, charged = tuple(size for size, _ in accesses), tuple(quick for _, quick in accesses)
    memory = (sum(sizes) + fixed) / home
    simulated = max(compute, fixed / home + sum(size / (fast if quick else home) for size, quick in accesses))
    saved = [size / home - size / fast if memory > compute else memory - compute for size in sizes]

    def digits(value: float) -> float:
        return float(f"{value:.5e}")

    facts = StepFacts(
        home_seconds=digits(max(compute, memory)),
        observations=(Observation(seconds=digits(simulated), charged_fast=charged),),
        benefits_seconds=tuple(digits(benefit) for benefit in saved),
        movable_bytes=sizes,
        tensor_bytes=sizes,
        shape_bytes=sum(sizes) + fixed,
    )
    solution = solve_step(facts, V5E)
    assert solution.residual_bytes == 0
    assert solution.fixed_bytes == pytest.approx(fixed, abs=3e-5 * facts.home_seconds * home + 64)
    everything_fast = fixed / home + sum(sizes) / fast
    reachable = max(compute, everything_fast)  # by the best mapping
    solved = max(solution.compute_seconds, everything_fast)
    assert solved >= reachable * (1 - 1e-3)  # no mapping is judged faster than it can be
    unsure = 1e-3 * reachable + 4e-5 * facts.home_seconds + 1e-10
    assert solved - solution.hidden_seconds <= reachable + unsure  # and what is not known is stated


def test_further_compilations_uncover_hidden_compute() -> None:
    home, fast = (layer.bytes_per_second for layer in V5E.layers)
    size = 2**24
    facts = StepFacts(
        home_seconds=size / home,
        observations=(Observation(seconds=size / home, charged_fast=(False,)),),
        benefits_seconds=(size / home - size / fast,),
        movable_bytes=(size,),
        tensor_bytes=(size,),
        shape_bytes=size,
    )
    first = solve_step(facts, V5E)
    assert first.compute_seconds == pytest.approx(size / home)
    assert first.hidden_seconds == pytest.approx(size / home - size / fast)
    seen = (*facts.observations, Observation(seconds=5e-6, charged_fast=(True,)))
    second = solve_step(replace(facts, observations=seen), V5E)
    assert second.compute_seconds == pytest.approx(5e-6)
    assert second.hidden_seconds == 0


def test_what_takes_less_time_elsewhere_is_bound_by_memory() -> None:
    """One operand, read twice, prefetched for the whole program: no benefit, and no size, is told (x @ x)."""
    home, fast = (layer.bytes_per_second for layer in V5E.layers)
    size = 2**20
    facts = StepFacts(
        home_seconds=3 * size / home,
        observations=(Observation(seconds=2 * size / fast + size / home, charged_fast=(True, False)),),
        benefits_seconds=(),
        movable_bytes=(None, None),
        tensor_bytes=(size, size),
        shape_bytes=2 * size,
        writes=(False, True),
    )
    solution = solve_step(facts, V5E)
    assert solution.access_bytes == pytest.approx((2 * size, size), abs=1)
    assert solution.compute_seconds <= facts.observations[0].seconds
    assert solution.fixed_bytes == 0


def test_benefits_size_what_is_larger_than_its_tensor() -> None:
    """A product that is reduced at once: the cost model charges its row many times, and its benefit alone says so."""
    home, fast = (layer.bytes_per_second for layer in V5E.layers)
    weights, row, moved = 2**24, 512, 600_000
    gains = tuple(size * (1 / home - 1 / fast) for size in (weights, moved))
    facts = StepFacts(
        home_seconds=(weights + moved) / home,
        observations=(Observation(seconds=weights / home + moved / fast, charged_fast=(False, True)),),
        benefits_seconds=gains,
        movable_bytes=(None, None),
        tensor_bytes=(weights, row),
        shape_bytes=weights + row,
        writes=(False, True),
        gains=gains,
    )
    solution = solve_step(facts, V5E)
    assert solution.access_bytes == pytest.approx((weights, moved), abs=2)


def test_loops_of_the_log_span_condition_and_body(trace: Trace) -> None:
    (loop,) = trace.program.loops
    assert isinstance(loop, Loop)
    inside = {i.computation for i in trace.program.instructions[loop.start_step : loop.end_step]}
    outside = {i.computation for i in trace.program.instructions} - inside
    assert len(inside) == 2
    assert len(outside) == 1


def test_benefits_are_weighed_by_the_depth_of_loops() -> None:
    """A memory-bound access saves bytes / bandwidth, times a factor for each enclosing loop."""
    log = parse_log(lines(), "lstm")
    home, fast = (layer.bytes_per_second for layer in V5E.layers)
    entry = log.schedule[-1][0]
    depth = {name: int(computation != entry) for computation, name in log.schedule}
    checked = set()
    for place, benefit in log.benefit_seconds.items():
        size = log.accessed_bytes.get(place, 0)
        if benefit > 0 and size and not place.instruction.startswith("while"):
            saved = size * (1 / home - 1 / fast) * NEST_FACTOR ** depth[place.instruction]
            assert benefit == pytest.approx(saved, rel=1e-4)
            checked.add(depth[place.instruction])
    assert checked == {0, 1}
