"""Every form of HLO text: short and long, several lines, asynchronous pairs, control flow, shared computations."""

from pathlib import Path

import pytest

from mallocgame.errors import TraceError
from mallocgame.hierarchy import preset
from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping
from mallocgame.program import Program, Tensor, UseKind
from mallocgame.workloads.hlo import xla_parser
from mallocgame.workloads.hlo.module import parse_hlo
from mallocgame.workloads.hlo.schedule import Expectations
from mallocgame.workloads.hlo_trace import Reading, program_from_hlo, read_module, trace_from_hlo

V5E = preset("v5e")

LONG = """HloModule scaled, is_scheduled=true, entry_computation_layout={(f32[16,16]{1,0})->f32[16,16]{1,0}}

%fused (a: f32[16,16], b: f32[16,16]) -> f32[16,16] {
  %a = f32[16,16]{1,0} parameter(0)
  %b = f32[16,16]{1,0} parameter(1)
  ROOT %m = f32[16,16]{1,0} multiply(f32[16,16]{1,0} %a, f32[16,16]{1,0} %b)
}

ENTRY %main (p: f32[16,16], q: f32[16,16]) -> f32[16,16] {
  %p = f32[16,16]{1,0} parameter(0)
  %q = f32[16,16]{1,0} parameter(1)
  %f = f32[16,16]{1,0} fusion(%p, /*index=1*/%q), kind=kLoop, calls=%fused, metadata={op_name="a } b"
    source_file="m.py" source_line=3}
  ROOT %d = f32[16,16]{1,0} dot(%f, %q), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""

SHORT = """// made by hand
HloModule scaled, is_scheduled=true

fused { a = f32[16,16]{1,0} parameter(0)
  b = f32[16,16]{1,0} parameter(1) ROOT m = f32[16,16]{1,0} multiply(a, b) }

ENTRY main {
  p = f32[16,16]{1,0} parameter(0)
  q = f32[16,16]{1,0} parameter(1)
  f = f32[16,16]{1,0} fusion(p, q), kind=kLoop, calls=fused,
      metadata={op_name="a } b"
        source_file="m.py" source_line=3}
  ROOT d = dot(f, q),
    lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""


def test_short_text_says_what_long_text_says() -> None:
    short = SHORT.replace("ROOT d = dot", "ROOT d = f32[16,16]{1,0} dot")
    assert program_from_hlo(parse_hlo(short), 1e12) == program_from_hlo(parse_hlo(LONG), 1e12)


def test_shapes_that_follow_from_operands_may_be_left_out() -> None:
    text = SHORT.replace("ROOT m = f32[16,16]{1,0} multiply", "ROOT m = multiply")
    text = text.replace(
        "ROOT d = dot", "n = negate(q) t = tuple(n, f) e = get-tuple-element(t), index=1 ROOT d = f32[16,16] dot"
    )
    program = program_from_hlo(parse_hlo(text), 1e12)
    assert [t.size_bytes for t in program.tensors if not t.is_parameter] == [1024, 1024, 1024]
    with pytest.raises(TraceError, match=r"HLO:13: .*that of dot does not follow"):
        parse_hlo(SHORT)


@pytest.mark.skipif(not xla_parser.available(), reason="needs jaxlib")
def test_xla_reads_what_this_parser_does_not() -> None:
    assert program_from_hlo(read_module(SHORT), 1e12).num_steps == 4
    nested = SHORT.replace("ROOT d = dot(f, q)", "ROOT d = f32[16,16] add(negate(f), q)").replace(
        ",\n    lhs_contracting_dims={1}, rhs_contracting_dims={0}", ""
    )
    assert program_from_hlo(read_module(nested), 1e12).num_steps == 5
    with pytest.raises(TraceError, match=r"HLO:13: .*XLA's parser: .*"):
        read_module(SHORT.replace("dot(f, q)", "dot(f, absent)"))


def test_xlas_parser_prints_what_was_read() -> None:
    if xla_parser.available():
        printed, reason = xla_parser.long_form(LONG)
        assert not reason
        assert program_from_hlo(parse_hlo(printed), 1e12) == program_from_hlo(parse_hlo(LONG), 1e12)
        assert xla_parser.long_form("HloModule m\nENTRY e { x }")[1]


def _read(entry: str, others: str = "", expectations: Expectations | None = None) -> Program:
    text = f"HloModule m, is_scheduled=true\n{others}\nENTRY main {{\n{entry}\n}}\n"
    return Reading(parse_hlo(text), V5E, 1e12, expectations=expectations or Expectations()).program()


def _tensor(program: Program, name: str) -> Tensor:
    return next(t for t in program.tensors if t.name == name)


def _uses(program: Program, name: str) -> list[tuple[str, str, int]]:
    steps = program.instructions
    return [(steps[u.step].name, u.kind.name, u.bytes) for u in _tensor(program, name).uses]


COLLECTIVES = """
  p = f32[8,4] parameter(0)
  g = (f32[8,4], f32[16,4]) all-gather-start(p), dimensions={0}, replica_groups={{0,1}}
  r = f32[8,4] all-reduce-start(p), to_apply=sum
  c = (f32[8,4], f32[8,4], u32[], u32[]) collective-permute-start(p), source_target_pairs={{0,1}}
  a = ((f32[8,4]), f32[8,4]) all-to-all-start(p), dimensions={0}
  n = f32[8,4] negate(p)
  gd = f32[16,4] all-gather-done(g)
  rd = f32[8,4] all-reduce-done(r)
  cd = f32[8,4] collective-permute-done(c)
  ad = f32[8,4] all-to-all-done(a)
  ROOT t = (f32[16,4], f32[8,4], f32[8,4], f32[8,4], f32[8,4]) tuple(gd, rd, cd, ad, n)
"""
SUM = "sum { x = f32[] parameter(0) y = f32[] parameter(1) ROOT s = f32[] add(x, y) }"


def test_asynchronous_pairs_read_at_the_start_and_write_what_the_end_gives() -> None:
    program = _read(COLLECTIVES, SUM)
    assert _uses(program, "g") == [("g", "DEFINE", 256)]
    assert _uses(program, "r") == [("r", "DEFINE", 128)]
    assert _uses(program, "c") == [("c", "DEFINE", 128)]
    assert _uses(program, "a") == [("a", "DEFINE", 128)]
    assert all(_tensor(program, name).is_output for name in "grcan")
    reads = _uses(program, "p")
    assert [use for use in reads if use[2]] == [(name, "READ", 128) for name in "grcan"]
    assert [use[0] for use in reads if not use[2]] == ["gd", "cd", "ad"]  # until then it may not be overwritten


GENERIC = """
  p = f32[8] parameter(0)
  s = ((f32[8], f32[8]), f32[8], s32[]) async-start(p, p), calls=inner
  u = ((f32[8], f32[8]), f32[8], s32[]) async-update(s)
  d = f32[8] async-done(u)
  tok = token[] after-all()
  sn = (f32[8], u32[], token[]) send(d, tok), channel_id=1
  sd = token[] send-done(sn), channel_id=1
  rv = (f32[8], u32[], token[]) recv(tok), channel_id=2
  rd = (f32[8], token[]) recv-done(rv), channel_id=2
  e = f32[8] get-tuple-element(rd), index=0
  i = ((f32[8]), token[]) infeed(tok)
  ROOT x = f32[8] add(e, d)
"""
INNER = "inner { a = f32[8] parameter(0) b = f32[8] parameter(1) ROOT m = f32[8] multiply(a, b) }"


def test_generic_pairs_sends_receives_and_infeeds() -> None:
    program = _read(GENERIC, INNER)
    seconds = {i.name: i.compute_seconds for i in program.instructions}
    assert seconds["s"] == 8 / 1e12
    assert seconds["u"] == seconds["d"] == seconds["sd"] == 0
    assert _uses(program, "s") == [("s", "DEFINE", 32), ("sn", "READ", 32), ("sd", "READ", 0), ("x", "READ", 32)]
    assert _uses(program, "rv") == [("rv", "DEFINE", 32), ("x", "READ", 32)]
    assert _uses(program, "i") == [("i", "DEFINE", 32)]


CHOICE = """
  p = s32[] parameter(0)
  x = f32[8] parameter(1)
  c = f32[8] conditional(p, x, x, x), branch_computations={yes, no, yes}
  ROOT o = f32[8] negate(c)
"""
BRANCHES = """
yes { a = f32[8] parameter(0) ROOT n = f32[8] negate(a) }
no { a = f32[8] parameter(0) k = f32[8] add(a, a) ROOT e = f32[8] exponential(k) }
"""


def test_conditionals_are_branches_with_weights() -> None:
    program = _read(CHOICE, BRANCHES)
    (conditional,) = program.conditionals
    assert [end - start for start, end, _ in conditional.branches()] == [2, 3, 2]
    assert conditional.weights == pytest.approx((1 / 3,) * 3)
    assert [kind for _, kind, _ in _uses(program, "n")] == ["DEFINE", "DEFINE", "DEFINE", "READ"]
    given = _read(CHOICE, BRANCHES, Expectations(weights={"c": (6, 3, 1)}))
    assert given.conditionals[0].weights == pytest.approx((0.6, 0.3, 0.1))
    for_all = _read(CHOICE, BRANCHES, Expectations(weights={"": (6, 3, 1)}))
    assert for_all.conditionals == given.conditionals
    for weights, message in (({"c": (1.0,)}, "3 branches"), ({"x": (1.0,)}, "no loop or conditional is named x")):
        with pytest.raises(TraceError, match=message):
            _read(CHOICE, BRANCHES, Expectations(weights=weights))
    two = CHOICE.replace(
        "(p, x, x, x), branch_computations={yes, no, yes}", "(q, x, x), true_computation=yes, false_computation=no"
    )
    assert len(_read("  q = pred[] parameter(2)\n" + two, BRANCHES).conditionals[0].weights) == 2


LOOPING = """
  x = f32[8] parameter(0)
  t = (f32[8]) tuple(x)
  w = (f32[8]) while(t), condition=more, body=step
  v = (f32[8]) while(w), condition=more, body=step
  ROOT o = f32[8] get-tuple-element(v), index=0
"""
STEP = """
more { s = (f32[8]) parameter(0) ROOT g = pred[] custom-call(s), custom_call_target="f" }
step { s = (f32[8]) parameter(0) e = f32[8] get-tuple-element(s), index=0
  n = f32[8] negate(e) ROOT r = (f32[8]) tuple(n) }
"""


def test_unknown_trip_counts_are_assumed_and_may_be_given(tmp_path: Path) -> None:
    program = _read(LOOPING, STEP)
    assert [loop.trip_count for loop in program.loops] == [5, 5]
    names = [i.name for i in program.instructions]
    assert len(set(names)) == len(names)  # a computation that two loops run is two
    given = _read(LOOPING, STEP, Expectations(trip_counts={"w": 2.5, "": 7}))
    assert [loop.trip_count for loop in given.loops] == [2.5, 7]
    file = tmp_path / "loop.hlo"
    file.write_text(f"HloModule m, is_scheduled=true\n{STEP}\nENTRY main {{{LOOPING}}}\n", encoding="utf-8")
    trace = trace_from_hlo(file, V5E)
    assert trace.provenance["assumed_trip_counts"] == ("w", "v")
    assert simulate(trace.program, V5E, Mapping()).total_seconds > 0


def test_calls_are_steps_and_what_does_one_thing_is_opaque() -> None:
    body = "two { a = f32[8] parameter(0) b = f32[8] negate(a) ROOT c = f32[8] exponential(b) }"
    entry = "  x = f32[8] parameter(0)\n  y = f32[8] call(x), to_apply=two\n  ROOT z = f32[8] call(y), to_apply=two"
    program = _read(entry, body)
    assert sum(i.opcode == "exponential" for i in program.instructions) == 2
    one = _read(entry, body.replace("b = f32[8] negate(a) ROOT c = f32[8] exponential(b)", "ROOT c = f32[8] negate(a)"))
    assert [i.opcode for i in one.instructions] == ["parameter", "call", "call"]
    with pytest.raises(TraceError, match=r"computation two runs itself|not defined before"):
        _read(entry, "two { a = f32[8] parameter(0) ROOT c = f32[8] call(a), to_apply=two }")


def test_two_updates_of_one_operand_are_one_place() -> None:
    fused = """
fused {
  p = f32[64] parameter(0)
  a = f32[4] parameter(1)
  b = f32[8] parameter(2)
  i = s32[] parameter(3)
  u = f32[64] dynamic-update-slice(p, a, i)
  ROOT v = f32[64] dynamic-update-slice(u, b, i)
}"""
    program = _read(
        "  x = f32[64] parameter(0)\n  a = f32[4] parameter(1)\n  b = f32[8] parameter(2)\n  i = s32[] parameter(3)\n"
        "  ROOT f = f32[64] fusion(x, a, b, i), kind=kLoop, calls=fused",
        fused,
    )
    assert _uses(program, "x") == [("f", "UPDATE", 16 + 32)]


def test_constants_are_read_from_memory() -> None:
    entry = "k = f32[64] constant({...}) s = f32[] constant(1) x = f32[64] parameter(0) ROOT y = f32[64] add(x, k)"
    program = _read(entry)
    assert _uses(program, "k") == [("y", "READ", 256)]
    assert _tensor(program, "k").is_parameter
    assert "s" not in {t.name for t in program.tensors}


FAST = """HloModule after, is_scheduled=true

ENTRY %main (p: f32[1024,256], w: f32[256,256]) -> f32[1024,256] {
  %p = f32[1024,256]{1,0} parameter(0)
  %w = f32[256,256]{1,0} parameter(1)
  %cs = (f32[256,256]{1,0:S(1)}, f32[256,256]{1,0}, u32[]{:S(2)}) copy-start(%w)
  %n = f32[1024,256]{1,0:S(1)} negate(%p)
  %cd = f32[256,256]{1,0:S(1)} copy-done(%cs)
  %ev = (f32[1024,256]{1,0}, f32[1024,256]{1,0:S(1)}, u32[]{:S(2)}) copy-start(%n)
  %d = f32[1024,256]{1,0:S(1)} dot(%n, %cd), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %ed = f32[1024,256]{1,0} copy-done(%ev)
  ROOT %o = f32[1024,256]{1,0} add(%d, %ed)
}
"""
ASSIGNED = """BufferAssignment:
allocation 0: size 4194304, page 0, preallocated-temp:
 value: <3 cs{0} @1> (size=262144,offset=1048576): f32[256,256]{1,0:S(1)}
 value: <4 n @1> (size=1048576,offset=2097152): f32[1024,256]{1,0:S(1)}
 value: <5 d (phi) @1> (size=1048576,offset=4194304): f32[1024,256]{1,0:S(1)}
"""


def test_the_placement_in_the_text_is_the_compilers_mapping(tmp_path: Path) -> None:
    file = tmp_path / "fast.hlo"
    file.write_text(FAST, encoding="utf-8")
    (tmp_path / "module_0001.after.x-buffer-assignment.txt").write_text(ASSIGNED, encoding="utf-8")
    packed, assigned = trace_from_hlo(file, V5E), trace_from_hlo(file, V5E, dump=tmp_path)
    assert (packed.provenance["offsets"], assigned.provenance["offsets"]) == ("packed here", "buffer assignment")
    for trace in (packed, assigned):
        assert trace.mapping is not None
        assert validate(trace.program, V5E, trace.mapping) == []
        copies = [(trace.program.tensors[x.tensor].name, x.start_after, x.done_before) for x in trace.mapping.transfers]
        assert copies == [("w", 2, 4), ("n", 5, 7)]
    assert assigned.mapping is not None
    places = {assigned.program.tensors[r.tensor].name: r.offset_bytes for r in assigned.mapping.residencies}
    assert places == {"w": 1048576, "n": 2097152, "d": 4194304}
    assert (
        simulate(packed.program, V5E, packed.mapping or Mapping()).total_seconds
        < simulate(packed.program, V5E, Mapping()).total_seconds
    )


SLICED = """HloModule sliced, is_scheduled=true

ENTRY %main (x: f32[1024,256], w: f32[256,256]) -> f32[1024,256] {
  %w = f32[256,256]{1,0} parameter(1)
  %s1 = ((f32[256,256]{1,0}), f32[128,256]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%w), slice={[128:256], [0:256]}
  %x = f32[1024,256]{1,0} parameter(0)
  %s0 = ((f32[256,256]{1,0}), f32[128,256]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%w), slice={[0:128], [0:256]}
  %n = f32[1024,256]{1,0} negate(%x)
  %d1 = f32[128,256]{1,0:S(1)} slice-done(%s1)
  %d0 = f32[128,256]{1,0:S(1)} slice-done(%s0)
  %j = f32[256,256]{1,0:S(1)} custom-call(%d1, %d0), custom_call_target="ConcatBitcast"
  ROOT %o = f32[1024,256]{1,0} dot(%n, %j), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""


def test_slices_of_one_copy_are_transfers_into_one_place(tmp_path: Path) -> None:
    file = tmp_path / "sliced.hlo"
    file.write_text(SLICED, encoding="utf-8")
    trace = trace_from_hlo(file, V5E)
    assert trace.mapping is not None
    assert len(trace.mapping.residencies) == 1
    parts = [(x.start_after, x.size_bytes, x.slice_offset_bytes) for x in trace.mapping.transfers]
    assert parts == [(1, 131072, 131072), (3, 131072, 0)]  # the second half is issued first
    assert [u.kind for t in trace.program.tensors if t.name == "w" for u in t.uses] == [UseKind.READ]


PARTED = """HloModule parted, is_scheduled=true
ENTRY %main {{
  %p = f32[1024,256]{{1,0}} parameter(0)
  %u = f32[1,256]{{1,0}} parameter(1)
  %zero = s32[] constant(0)
  %cs = (f32[1024,256]{{1,0:S(1)}}, f32[1024,256]{{1,0}}, u32[]{{:S(2)}}) copy-start(%p)
  %n = f32[1,256]{{1,0}} negate(%u)
  %cd = f32[1024,256]{{1,0:S(1)}} copy-done(%cs)
  %d = f32[1024,256]{{1,0:S(1)}} dynamic-update-slice(%cd, %n, %zero, %zero)
  ROOT %o = f32[1024,256]{{1,0}} add(%d, %{other})
}}
"""


@pytest.mark.parametrize(
    ("chip", "other", "parts"),
    [
        ("v5e", "d", False),  # nobody wants the old contents again: one tensor, a transfer
        ("v5e", "p", True),
        ("host-v5e", "d", True),  # the parameter, in HBM, is what the next run finds there
        ("host-v5e", "p", True),
    ],
)
def test_a_copy_that_is_changed_parts_from_what_is_still_wanted(
    chip: str, other: str, parts: bool, tmp_path: Path
) -> None:
    file = tmp_path / "parted.hlo"
    file.write_text(PARTED.format(other=other), encoding="utf-8")
    trace = trace_from_hlo(file, preset(chip))
    assert trace.mapping is not None, trace.provenance["placement"]
    copied = next(t for t in trace.program.tensors if any(u.kind == UseKind.UPDATE for u in t.uses))
    assert copied.is_parameter != parts
    fast = [r for r in trace.mapping.residencies if r.layer == trace.hierarchy.num_layers - 1]
    assert [trace.program.tensors[r.tensor] for r in fast] == [copied]


def test_host_memory_stays_on_the_host(tmp_path: Path) -> None:
    file = tmp_path / "host.hlo"
    text = """HloModule host, is_scheduled=true
ENTRY %main {
  %p = f32[4096,256]{1,0:S(5)} parameter(0)
  %w = f32[256,256]{1,0} parameter(1)
  %c = f32[4096,256]{1,0} copy(%p)
  %d = f32[4096,256]{1,0} dot(%c, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %o = f32[4096,256]{1,0:S(5)} copy(%d)
}
"""
    file.write_text(text, encoding="utf-8")
    trace = trace_from_hlo(file, preset("host-v5e"))
    movable = {t.name: t.movable for t in trace.program.tensors}
    assert movable == {"p": False, "w": True, "c": True, "d": True, "o": False}
    assert trace.mapping is not None
    placed = {trace.program.tensors[r.tensor].name: r.layer for r in trace.mapping.residencies}
    assert placed == {"w": 1, "c": 1, "d": 1}
    with pytest.raises(TraceError, match=r"host.hlo:3: p is in host memory, S\(5\)"):
        trace_from_hlo(file, V5E)


@pytest.mark.parametrize("chip", ["host-v5e", "v5e"])
@pytest.mark.parametrize("between", ["", "%v = f32[256,256]{1,0} negate(%w)"])
def test_a_copy_may_be_waited_for_at_once(chip: str, between: str, tmp_path: Path) -> None:
    slow, fast = ("{1,0:S(5)}", "{1,0}") if chip == "host-v5e" else ("{1,0}", "{1,0:S(1)}")
    file = tmp_path / "streamed.hlo"
    text = f"""HloModule streamed, is_scheduled=true
ENTRY %main {{
  %p = f32[4096,256]{slow} parameter(0)
  %w = f32[256,256]{{1,0}} parameter(1)
  %in = (f32[4096,256]{fast}, f32[4096,256]{slow}, u32[]) copy-start(%p)
  {between}
  %x = f32[4096,256]{fast} copy-done(%in)
  %d = f32[4096,256]{fast} dot(%x, %w), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
  %out = (f32[4096,256]{slow}, f32[4096,256]{fast}, u32[]) copy-start(%d)
  {between.replace("%v", "%u")}
  ROOT %o = f32[4096,256]{slow} copy-done(%out)
}}
"""
    file.write_text(text, encoding="utf-8")
    trace = trace_from_hlo(file, preset(chip))
    assert trace.mapping is not None, trace.provenance
    assert all(tensor.movable for tensor in trace.program.tensors if tensor.name != "w")
    names = [trace.program.tensors[x.tensor].name for x in trace.mapping.transfers]
    assert [name for name in names if name in ("p", "d")] == ["p", "d"]  # once in, once out: no copy twice


def test_what_stands_in_several_branches_is_one(tmp_path: Path) -> None:
    """An operand that each branch finds in fast memory, and a result that each leaves there."""
    near, branch = "f32[256,256]{1,0:S(1)}", "  %r{0} = {1} parameter(0)\n  ROOT %o{0} = {1} {2}(%r{0})\n"
    bodies = "".join(
        f"%b{n} (r{n}: f32[256,256]) -> f32[256,256] {{\n{branch.format(n, near, opcode)}}}\n\n"
        for n, opcode in enumerate(("negate", "exponential", "tanh"))
    )
    entry = f"""ENTRY %main (i: s32[], x: f32[256,256]) -> f32[256,256] {{
  %i = s32[] parameter(0)
  %x = f32[256,256]{{1,0}} parameter(1)
  %in = ({near}, f32[256,256]{{1,0}}, u32[]) copy-start(%x)
  %n = f32[256,256]{{1,0}} negate(%x)
  %near = {near} copy-done(%in)
  %c = {near} conditional(%i, %near, %near, %near), branch_computations={{%b0, %b1, %b2}}
  ROOT %s = f32[256,256]{{1,0}} add(%c, %n)
}}
"""
    file = tmp_path / "switch.hlo"
    file.write_text(f"HloModule switch, is_scheduled=true\n\n{bodies}{entry}", encoding="utf-8")
    trace = trace_from_hlo(file, V5E)
    assert trace.mapping is not None, trace.provenance
    assert len(trace.mapping.residencies) == 2
    assert len(trace.mapping.transfers) == 1
    assert validate(trace.program, V5E, trace.mapping) == []


def test_parameters_and_results_in_fast_memory_come_from_home_and_go_there(tmp_path: Path) -> None:
    file = tmp_path / "near.hlo"
    near = "f32[1024,256]{1,0:S(1)}"
    file.write_text(
        f"HloModule near, is_scheduled=true\nENTRY main {{ p = {near} parameter(0) n = f32[1024,256]{{1,0}} negate(p)\n"
        f"  ROOT o = {near} exponential(n) }}\n",
        encoding="utf-8",
    )
    trace = trace_from_hlo(file, V5E)
    assert trace.mapping is not None
    assert validate(trace.program, V5E, trace.mapping) == []
    copies = [(x.source, x.target, x.start_after, x.done_before) for x in trace.mapping.transfers]
    assert copies == [(-1, 0, -1, 1), (1, -1, 2, 3)]


def test_a_folder_without_a_buffer_assignment_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "fast.hlo"
    file.write_text(FAST, encoding="utf-8")
    with pytest.raises(TraceError, match=r"no \*buffer-assignment.txt"):
        trace_from_hlo(file, V5E, dump=tmp_path)
