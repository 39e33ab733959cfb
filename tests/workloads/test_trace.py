"""Trace and mapping files: what is written is read back, and nothing else is read as something."""

import copy
import gzip
import json
import math
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mallocgame.errors import TraceError
from mallocgame.files import MAX_BYTES, MAX_INTEGER
from mallocgame.hierarchy import PRESETS, preset
from mallocgame.mapping import Mapping, Residency, Transfer
from mallocgame.program import Conditional, Instruction, Loop, Program, Tensor, Use, UseKind
from mallocgame.workloads.anonymise import anonymise
from mallocgame.workloads.formats.strict_json import Node
from mallocgame.workloads.trace import (
    Trace,
    _counts,
    _decode_conditionals,
    _decode_loops,
    load_mapping,
    load_trace,
    save_mapping,
    save_trace,
)
from tests.paths import ROOT
from tests.strategies import loose_mappings, programs, small_hierarchy
from tests.toy import toy_trace

MEMORY = small_hierarchy()
SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    program = draw(programs())
    texts = st.text(max_size=3).filter(str.isprintable)
    values = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.floats(0, 1e9), texts)
    about = st.dictionaries(texts, st.one_of(values, st.lists(values, max_size=3).map(tuple)), max_size=2)
    return Trace(
        name="random",
        program=program,
        hierarchy=MEMORY,
        mapping=draw(st.one_of(st.none(), loose_mappings(program, MEMORY))),
        estimates=draw(about),
        provenance=draw(about),
    )


@settings(max_examples=150, deadline=None, suppress_health_check=SLOW)
@given(traces(), st.sampled_from((".json", ".json.gz")))
def test_a_trace_survives_its_file(tmp_path: Path, trace: Trace, suffix: str) -> None:
    path = tmp_path / f"trace{suffix}"
    save_trace(path, trace)
    data = path.read_bytes()
    assert load_trace(path) == trace
    save_trace(path, load_trace(path))
    assert path.read_bytes() == data


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_survives_a_file(tmp_path: Path, name: str) -> None:
    trace = Trace(name="x", program=toy_trace().program, hierarchy=PRESETS[name])
    save_trace(tmp_path / "x.json.gz", trace)
    assert load_trace(tmp_path / "x.json.gz") == trace


@settings(max_examples=100, deadline=None, suppress_health_check=SLOW)
@given(programs().flatmap(lambda p: st.tuples(st.just(p), loose_mappings(p, MEMORY))))
def test_a_mapping_survives_its_file(tmp_path: Path, case: tuple[Program, Mapping]) -> None:
    program, mapping = case
    save_mapping(tmp_path / "m.json", mapping, program, MEMORY)
    assert load_mapping(tmp_path / "m.json", program, MEMORY) == mapping


def sample() -> Trace:
    """Every column is in use, no two values of a row are equal."""
    instructions = (
        Instruction(name="a", compute_seconds=0.5, opcode="fusion", computation="main", source="model.py:3"),
        Instruction(name="b", compute_seconds=0.25, trip_count=3, fixed_bytes=(7, 1), opcode="dot"),
    )
    uses = (Use(step=0, bytes=5, operand=2, index=(1, 0)), Use(step=1, bytes=6, operand=-1, home_only=True))
    born = (Use(step=0, bytes=4, kind=UseKind.DEFINE), Use(step=1, bytes=3, kind=UseKind.UPDATE))
    tensors = (
        Tensor(name="p", size_bytes=8, uses=uses, is_parameter=True, holdable=True, hoistable=False),
        Tensor(name="q", size_bytes=4, uses=born, is_output=True, movable=False),
    )
    program = Program(
        name="two", instructions=instructions, tensors=tensors, loops=(Loop(start_step=1, end_step=2, trip_count=3),)
    )
    mapping = Mapping(
        residencies=(Residency(tensor=0, layer=1, offset_bytes=2, start_step=0, end_step=1),),
        transfers=(Transfer(tensor=0, source=-1, target=0, start_after=-1, done_before=0, size_bytes=8),),
    )
    estimates = {"total_seconds": 1.25, "elapsed_seconds": (0.5, None)}
    provenance = {"chip": "v5e", "flags": ("--a", "--b"), "full": True}
    return Trace(
        name="two@small", program=program, hierarchy=MEMORY, mapping=mapping, estimates=estimates, provenance=provenance
    )


def test_the_file_is_what_the_document_says(tmp_path: Path) -> None:
    save_trace(tmp_path / "t.json.gz", sample())
    value = json.loads(gzip.decompress((tmp_path / "t.json.gz").read_bytes()))
    assert (value["format"], value["version"], value["name"]) == ("mallocgame-trace", 1, "two@small")
    program = value["program"]
    assert program["instructions"]["source"] == ["model.py:3", ""]
    assert program["instructions"]["fixed_bytes"] == [[], [7, 1]]
    assert program["loops"] == {"start_step": [1], "end_step": [2], "trip_count": [3]}
    assert program["tensors"]["movable"] == [True, False]
    assert program["uses"]["tensor"] == [0, 0, 1, 1]
    assert program["uses"]["kind"] == ["read", "read", "define", "update"]
    assert program["uses"]["index"] == [[1, 0], [], [], []]
    assert value["hierarchy"]["links"]["pairs"] == [[[0, 1]]]
    assert value["mapping"]["residencies"]["name"] == ["p"]
    document = (ROOT / "docs" / "trace_format.md").read_text(encoding="utf-8")
    columns = [c for table in (*program.values(), *value["mapping"].values()) if isinstance(table, dict) for c in table]
    columns += [*value["hierarchy"]["layers"], *value["hierarchy"]["links"], *value]
    assert [column for column in columns if f"`{column}`" not in document and f'"{column}"' not in document] == []


def test_a_large_trace_is_a_small_file(tmp_path: Path) -> None:
    trace = toy_trace(num_layers=1000)
    save_trace(tmp_path / "t.json.gz", trace)
    assert trace.program.num_steps == 2000
    assert (tmp_path / "t.json.gz").stat().st_size < 100_000


JUNK: list[Any] = [None, True, -1, 0, 1, 2**63, -(2**70), 1.5, "", "x", "\ud800", "a\nb", [], [0], {}, {"a": 1}]


def _paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [prefix] + [path for key, child in children for path in _paths(child, (*prefix, key))]


def _parent(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        value = value[key]
    return value


def _plain(tmp_path: Path) -> Any:
    save_trace(tmp_path / "plain.json", sample())
    return json.loads((tmp_path / "plain.json").read_text(encoding="utf-8"))


def same(a: Any, b: Any) -> bool:
    """JSON equality: true is not 1, but 1 is 1.0."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def _correct_or_refused(path: Path, value: Any) -> bool:
    """Whether the file was refused; if it was read, writing it again must give the same content."""
    path.write_text(json.dumps(value), encoding="utf-8")
    message = ""
    try:
        trace = load_trace(path)
    except TraceError as error:
        message = str(error)
    if message:
        assert message.startswith(f"{path}: ")
        assert message.count(str(path)) == 1
        assert "\n" not in message
        return True
    save_trace(path, trace)
    assert same(json.loads(path.read_text(encoding="utf-8")), value)
    return False


@settings(max_examples=1500, deadline=None, suppress_health_check=SLOW)
@given(st.data())
def test_a_changed_trace_is_read_right_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    value = _plain(tmp_path)
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(_paths(value)[1:]))
        parent = _parent(value, path)
        kind = data.draw(st.sampled_from(("junk", "junk", "drop", "copy", "add")))
        if kind == "junk":
            parent[path[-1]] = copy.deepcopy(data.draw(st.sampled_from(JUNK)))
        elif kind == "drop":
            del parent[path[-1]]
        elif kind == "copy" and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[path[-1]]))
        elif isinstance(parent, dict):
            parent[data.draw(st.sampled_from(("extra", "name", "tensor")))] = 0
    _correct_or_refused(tmp_path / "t.json", value)


def test_each_missing_or_unknown_key_is_refused(tmp_path: Path) -> None:
    plain = _plain(tmp_path)
    free = ("estimates", "provenance")
    for path in _paths(plain)[1:]:
        if isinstance(path[-1], str) and path[0] not in free:
            value = copy.deepcopy(plain)
            del _parent(value, path)[path[-1]]
            assert _correct_or_refused(tmp_path / "t.json", value), path
            value = copy.deepcopy(plain)
            _parent(value, path)["surplus"] = 0
            assert _correct_or_refused(tmp_path / "t.json", value), path


@settings(max_examples=400, deadline=None, suppress_health_check=SLOW)
@given(st.data(), st.sampled_from((".json", ".json.gz")))
def test_broken_bytes_are_refused_or_read(tmp_path: Path, data: st.DataObject, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    save_trace(path, sample())
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[at:]
        must_fail = suffix == ".json.gz" or at < len(content)
    else:
        content[at] ^= data.draw(st.integers(1, 255))
        must_fail = False
    path.write_bytes(content)
    try:
        load_trace(path)
    except TraceError:
        return
    assert not must_fail


@pytest.mark.parametrize("cut", [0, 1, 10, 100, 300])
def test_a_truncated_file_is_refused(tmp_path: Path, cut: int) -> None:
    for name in ("t.json", "t.json.gz"):
        save_trace(tmp_path / name, sample())
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:cut])
        with pytest.raises(TraceError):
            load_trace(tmp_path / name)


def _refused(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    with pytest.raises(TraceError) as caught:
        load_trace(path)
    return str(caught.value)


def test_what_json_allows_but_we_do_not(tmp_path: Path) -> None:
    save_trace(tmp_path / "t.json", sample())
    good = (tmp_path / "t.json").read_text(encoding="utf-8")
    path = tmp_path / "bad.json"
    for before, after, reason in (
        ('"name": "two"', '"name": "two", "name": "three"', "repeated"),
        ("[0.5,0.25]", "[NaN,0.25]", "NaN"),
        ("[0.5,0.25]", "[-Infinity,0.25]", "Infinity"),
        ("[0.5,0.25]", "[1e999,0.25]", "out of range"),
        ("[0.5,0.25]", "[-0.5,0.25]", "compute_seconds[0]"),
        ("[0.5,0.25]", "[1e200,0.25]", "out of range"),
        ("[8,4]", f"[{'9' * 5000},4]", "out of range"),
        ("[8,4]", f"[{2**62},4]", "more than"),
        ("[8,4]", "[-8,4]", "size_bytes[0]"),
        ("[8,4]", "[8,4,4]", "entries"),
        ("[5,6,4,3]", "[5,-6,4,3]", "uses.bytes[1]"),
        ('"define"', '"born"', "uses.kind[2]"),
        ("[[],[7,1]]", "[[],[7,1,1]]", "fixed_bytes[1]"),
        ('"tensor": [0,0,1,1]', '"tensor": [0,1,0,1]', "ordered"),
        ("[[[0,1]]]", "[[[0,1,1]]]", "pair"),
        ('"version": 1', '"version": 4', "version 4"),
        ('"version": 1', '"version": 2', "'conditionals' is missing"),
        ('"version": 1', '"version": true', "version True"),
        ("mallocgame-trace", "mallocgame-mapping", "format"),
    ):
        assert before in good
        assert reason in _refused(path, good.replace(before, after, 1)), (before, after)


def test_the_line_of_a_syntax_error_is_named(tmp_path: Path) -> None:
    save_trace(tmp_path / "t.json", sample())
    lines = (tmp_path / "t.json").read_text(encoding="utf-8").split("\n")
    lines[6] += "?"
    message = _refused(tmp_path / "bad.json", "\n".join(lines))
    assert message.startswith(f"{tmp_path / 'bad.json'}:")
    assert int(message[len(str(tmp_path / "bad.json")) + 1 :].split(":")[0]) in (7, 8)


def test_bombs_and_things_that_are_not_files(tmp_path: Path) -> None:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = bytes(2**20)
    bomb = b"".join(squeeze.compress(block) for _ in range(4 * MAX_BYTES // len(block))) + squeeze.flush()
    assert len(bomb) < 2**20
    assert "larger than" in _refused(tmp_path / "bomb.json.gz", bomb)
    nested = 10**6
    assert "nested" in _refused(tmp_path / "deep.json", "[" * nested + "]" * nested)
    save_trace(tmp_path / "t.json.gz", sample())
    data = (tmp_path / "t.json.gz").read_bytes()
    assert "follow" in _refused(tmp_path / "two.json.gz", data + data)
    assert "gzip" in _refused(tmp_path / "short.json.gz", data[:-4])
    assert "UTF-8" in _refused(tmp_path / "latin.json", b'{"a": "\xff"}')
    for name in (tmp_path, tmp_path / "absent.json", Path("/dev/zero"), Path("a\0b")):
        with pytest.raises(TraceError):
            load_trace(name)
    with pytest.raises(TraceError, match="cannot write"):
        save_trace(tmp_path / "no" / "folder.json", sample())


def test_a_link_may_share_no_layer_and_names_none_that_is_not_there(tmp_path: Path) -> None:
    link = replace(MEMORY.links[0], shared_layer=None)
    trace = replace(sample(), hierarchy=replace(MEMORY, links=(link,)))
    save_trace(tmp_path / "t.json", trace)
    assert load_trace(tmp_path / "t.json") == trace
    value = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    for layer in (-2, 2):
        value["hierarchy"]["links"]["shared_layer"] = [layer]
        assert "shared_layer" in _refused(tmp_path / "t.json", json.dumps(value))


def test_too_many_loops_are_refused_at_once(tmp_path: Path) -> None:
    value = _plain(tmp_path)
    count = 200_000
    value["program"]["loops"] = {"start_step": [1] * count, "end_step": [2] * count, "trip_count": [1] * count}
    assert "too many" in _refused(tmp_path / "loops.json", json.dumps(value))


@pytest.mark.parametrize("by", ["uses", "tensors", "fixed bytes"])
def test_sums_that_leave_64_bits_are_refused(tmp_path: Path, by: str) -> None:
    trips, size = 2**20, 2**41  # 2**61 bytes for one of anything; a run may touch 2**62
    for count, is_refused in ((2, False), (3, True)):
        loop = Loop(start_step=0, end_step=count, trip_count=trips)
        fixed = (size,) if by == "fixed bytes" else ()
        instructions = tuple(
            Instruction(name=f"i{t}", compute_seconds=0.0, trip_count=trips, fixed_bytes=fixed) for t in range(count)
        )
        reads = tuple(Use(step=t, bytes=size) for t in range(count))
        tensors = [Tensor(name="x", size_bytes=size, is_parameter=True, uses=reads)]
        if by == "tensors":
            tensors = [replace(tensors[0], name=f"x{t}", uses=(Use(step=t, bytes=1),)) for t in range(count)]
        elif by == "fixed bytes":
            tensors = []
        program = Program(name="p", instructions=instructions, tensors=tuple(tensors), loops=(loop,))
        save_trace(tmp_path / "t.json", Trace(name="t", program=program, hierarchy=MEMORY))
        if is_refused:
            with pytest.raises(TraceError, match=r"one run touches 6.92e\+18 bytes"):  # the larger of both sums
                load_trace(tmp_path / "t.json")
        else:
            assert load_trace(tmp_path / "t.json").program == program


def test_a_mapping_of_something_else_is_refused(tmp_path: Path) -> None:
    trace = sample()
    assert trace.mapping is not None
    path = tmp_path / "m.json"
    save_mapping(path, trace.mapping, trace.program, trace.hierarchy)
    other = toy_trace()
    with pytest.raises(TraceError, match="layers"):
        load_mapping(path, trace.program, other.hierarchy)
    with pytest.raises(TraceError, match=r"residencies.name\[0\]"):
        load_mapping(path, other.program, trace.hierarchy)
    elsewhere = replace(trace.program, name="elsewhere", tensors=trace.program.tensors[:0])
    with pytest.raises(TraceError, match=f"made for {trace.program.name}, not for elsewhere: "):
        load_mapping(path, elsewhere, trace.hierarchy)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"tensor": [0]', '"tensor": [9]'), encoding="utf-8")
    with pytest.raises(TraceError, match=r"tensor\[0\]: expected an integer from 0 to 1, got 9"):
        load_mapping(path, trace.program, trace.hierarchy)
    save_trace(path, trace)
    with pytest.raises(TraceError, match="format"):
        load_mapping(path, trace.program, trace.hierarchy)


@settings(max_examples=300, deadline=None, suppress_health_check=SLOW)
@given(st.data())
def test_a_changed_mapping_is_read_right_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    trace = sample()
    assert trace.mapping is not None
    path = tmp_path / "m.json"
    save_mapping(path, trace.mapping, trace.program, trace.hierarchy)
    value = json.loads(path.read_text(encoding="utf-8"))
    at = data.draw(st.sampled_from(_paths(value)[1:]))
    _parent(value, at)[at[-1]] = copy.deepcopy(data.draw(st.sampled_from(JUNK)))
    path.write_text(json.dumps(value), encoding="utf-8")
    try:
        mapping = load_mapping(path, trace.program, trace.hierarchy)
    except TraceError:
        return
    save_mapping(path, mapping, trace.program, trace.hierarchy)
    written = json.loads(path.read_text(encoding="utf-8"))
    free = ("program", "hierarchy")
    assert same({k: v for k, v in written.items() if k not in free}, {k: v for k, v in value.items() if k not in free})


def test_nothing_that_is_not_json_is_written(tmp_path: Path) -> None:
    trace = Trace(name="x", program=toy_trace().program, hierarchy=MEMORY, estimates={"seconds": math.nan})
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_trace(tmp_path / "x.json", trace)
    assert list(tmp_path.iterdir()) == []


def test_what_the_user_calls_a_tensor_stays_with_it(tmp_path: Path) -> None:
    plain = sample()
    labels = ["state[0].mu['w']", ""]
    tensors = tuple(replace(t, label=label) for t, label in zip(plain.program.tensors, labels, strict=True))
    labelled = replace(plain, program=replace(plain.program, tensors=tensors))
    save_trace(tmp_path / "t.json", labelled)
    assert load_trace(tmp_path / "t.json") == labelled
    assert [t.title for t in tensors] == [labels[0], plain.program.tensors[1].name]
    assert not any(t.label for t in anonymise(labelled).program.tensors)
    table = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    assert table["program"]["tensors"].pop("label") == labels
    (tmp_path / "t.json").write_text(json.dumps(table), encoding="utf-8")
    assert load_trace(tmp_path / "t.json") == plain


def test_branches_and_expected_counts_are_version_2(tmp_path: Path) -> None:
    weights = (0.25, 0.75)
    counts = [2.5, 2.5 * 0.25, 2.5 * 0.75, 1]
    steps = tuple(Instruction(name=f"i{t}", compute_seconds=1.0, trip_count=n) for t, n in enumerate(counts))
    program = Program(
        name="branches",
        instructions=steps,
        tensors=(Tensor(name="w", size_bytes=8, is_parameter=True, uses=(Use(step=2, bytes=8),)),),
        loops=(Loop(start_step=0, end_step=3, trip_count=2.5),),
        conditionals=(Conditional(edges=(1, 2, 3), weights=weights),),
    )
    file = tmp_path / "branches.json.gz"
    save_trace(file, Trace(name="branches", program=program, hierarchy=preset("v5e")))
    value = json.loads(gzip.decompress(file.read_bytes()))
    assert value["version"] == 2
    assert value["program"]["conditionals"] == {"edges": [[1, 2, 3]], "weights": [[0.25, 0.75]]}
    assert load_trace(file).program == program
    for change, message in (
        ({"weights": [[0.5, 0.75]]}, "weights must sum to 1"),
        ({"edges": [[1, 2, 9]]}, r"conditionals.edges\[0\]\[2\]: expected an integer"),
        ({"edges": []}, "as many entries|equally long|entries"),
    ):
        value["program"]["conditionals"] = {"edges": [[1, 2, 3]], "weights": [[0.25, 0.75]]} | change
        file.write_bytes(gzip.compress(json.dumps(value).encode()))
        with pytest.raises(TraceError, match=message):
            load_trace(file)


def test_replaceable_copies_are_version_3(tmp_path: Path) -> None:
    steps = tuple(Instruction(name=f"i{t}", compute_seconds=1.0, is_replaceable=t == 1) for t in range(3))
    source = Tensor(name="a", size_bytes=8, is_parameter=True, uses=(Use(step=1, bytes=8),))
    result = Tensor(name="b", size_bytes=8, uses=(Use(step=1, bytes=8, kind=UseKind.DEFINE), Use(step=2, bytes=8)))
    program = Program(name="copies", instructions=steps, tensors=(source, result))
    file = tmp_path / "copies.json"
    save_trace(file, Trace(name="copies", program=program, hierarchy=preset("v5e")))
    text = file.read_text()
    assert (json.loads(text)["version"], json.loads(text)["program"]["replaceable_copies"]) == (3, [1])
    assert load_trace(file).program == program
    for wrong, message in (("[3]", "expected an integer from 0 to 2"), ("[0]", "reads one tensor and defines another")):
        file.write_text(text.replace('"replaceable_copies": [1]', f'"replaceable_copies": {wrong}'))
        with pytest.raises(TraceError, match=message):
            load_trace(file)


def test_the_smallest_layers_are_read(tmp_path: Path) -> None:
    layers = tuple(replace(layer, capacity_bytes=1, alignment_bytes=1) for layer in MEMORY.layers)
    links = tuple(replace(link, max_in_flight=1) for link in MEMORY.links)
    trace = replace(toy_trace(), hierarchy=replace(MEMORY, layers=layers, links=links))
    save_trace(tmp_path / "x.json", trace)
    assert load_trace(tmp_path / "x.json") == trace


@pytest.mark.parametrize("what", ["loops", "conditionals"])
def test_regions_times_steps_are_bounded_too(what: str) -> None:
    columns = {
        "loops": {"start_step": [0] * 1000, "end_step": [1] * 1000, "trip_count": [2] * 1000},
        "conditionals": {"edges": [[0, 1, 2]] * 1000, "weights": [[0.5, 0.5]] * 1000},
    }[what]
    read = {
        "loops": lambda steps: _decode_loops(Node("x.json", what, columns), steps, 3),
        "conditionals": lambda steps: _decode_conditionals(Node("x.json", what, columns), steps),
    }[what]
    assert len(read(20_000)) == 1000
    with pytest.raises(TraceError, match="too many to check"):
        read(20_001)
    for values in columns.values():
        values.append(values[0])  # type: ignore[attr-defined]
    with pytest.raises(TraceError, match="1001"):
        read(10)


def test_expected_counts_end_where_integers_do() -> None:
    assert _counts(Node("x.json", "counts", [MAX_INTEGER, 0.5, 3.0]), 2) == [MAX_INTEGER, 0.5, 3]
    for wrong in (0, -1, 2 * MAX_INTEGER):
        with pytest.raises(TraceError, match=r"counts\[1\]"):
            _counts(Node("x.json", "counts", [1, wrong]), 2)


def test_padding_is_known_of_every_tensor_or_not() -> None:
    trace = toy_trace()
    count = len(trace.program.tensors)
    known: list[tuple[object, tuple[int, ...] | None]] = [
        ((7,) * count, (7,) * count),
        ((None,) * count, (0,) * count),
        ((7,) * (count + 1), None),
        ((), None),
        (7, None),
    ]
    for value, wanted in known:
        assert replace(trace, estimates={"tensor_padding_bytes": value}).padding_bytes == wanted
    assert replace(trace, estimates={}).padding_bytes is None


def test_fusions_that_move_are_found_by_their_steps() -> None:
    trace = toy_trace()
    steps = ("moving_fusion_steps", (0, 2, -1, 10**6, "x"))
    kinds = ("moving_fusion_kinds", ("copy", "pad", "a", "b", "c"))
    assert replace(trace, estimates=dict((steps, kinds))).moving_fusions == {0: "copy", 2: "pad"}
    for known in ((), (steps,), (kinds,)):
        assert replace(trace, estimates=dict(known)).moving_fusions == {}
