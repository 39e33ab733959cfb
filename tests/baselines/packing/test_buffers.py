"""The value types, MiniMalloc's CSV, and the validator."""

import contextlib
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.baselines.packing.buffers import (
    Buffer,
    max_live_bytes,
    packing_height,
    read_buffers,
    validate_packing,
    write_packing,
)
from mallocgame.errors import InputError, TraceError
from tests.baselines.packing.oracle import small_problems

HEADER = "id,lower,upper,size\n"


def write(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "p.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@given(small_problems(aligned=True), st.lists(st.integers(-1, 9), min_size=6, max_size=6))
@settings(max_examples=500)
def test_validator_finds_exactly_the_violations(buffers: list[Buffer], drawn: list[int]) -> None:
    offsets = drawn[: len(buffers)]
    found = validate_packing(buffers, offsets, 9)
    expected = sum(o < 0 for o in offsets)
    expected += sum(o % b.alignment_bytes != 0 for b, o in zip(buffers, offsets, strict=True))
    expected += sum(o + b.size_bytes > 9 for b, o in zip(buffers, offsets, strict=True))
    for (a, x), (b, y) in combinations(list(zip(buffers, offsets, strict=True)), 2):
        bytes_shared = set(range(x, x + a.size_bytes)) & set(range(y, y + b.size_bytes))
        steps_shared = set(range(a.lower, a.upper)) & set(range(b.lower, b.upper))
        if bytes_shared and steps_shared:
            expected += 1
            line = (
                f"share bytes [{min(bytes_shared)}, {max(bytes_shared) + 1}) "
                f"during steps [{min(steps_shared)}, {max(steps_shared) + 1})"
            )
            assert any(line in text and repr(a.name) in text and repr(b.name) in text for text in found)
    assert len(found) == expected
    assert validate_packing(buffers, offsets, 9, limit=1) == found[:1]


def test_validator_names_a_moved_fixed_buffer_and_a_wrong_count() -> None:
    b = Buffer(name="b", lower=0, upper=1, size_bytes=2, fixed_offset=4)
    assert validate_packing([b], [3]) == ["buffer 'b': offset 3, but it is fixed at 4"]
    assert validate_packing([b], []) == ["1 buffers but 0 offsets"]
    assert validate_packing([b], [4], 6) == []
    assert validate_packing([b], [4], 5) == ["buffer 'b': ends at byte 6, above the capacity of 5"]


@given(small_problems())
def test_max_live_counts_steps(buffers: list[Buffer]) -> None:
    live = [sum(b.size_bytes for b in buffers if b.lower <= step < b.upper) for step in range(6)]
    assert max_live_bytes(buffers) == max(live)


@given(small_problems(aligned=True), st.lists(st.integers(0, 10), min_size=6, max_size=6))
@settings(max_examples=50)
def test_csv_round_trip(tmp_path_factory: pytest.TempPathFactory, buffers: list[Buffer], drawn: list[int]) -> None:
    path = tmp_path_factory.mktemp("csv") / "p.csv"
    offsets = [o * b.alignment_bytes for b, o in zip(buffers, drawn, strict=False)]
    write_packing(path, buffers, offsets)
    back = read_buffers(path)
    assert [b.fixed_offset for b in back] == offsets
    assert [(b.name, b.lower, b.upper, b.size_bytes, b.alignment_bytes) for b in back] == [
        (b.name, b.lower, b.upper, b.size_bytes, b.alignment_bytes) for b in buffers
    ]
    assert packing_height(back, offsets) == packing_height(buffers, offsets)


def test_other_people_s_tables_are_read(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("id,lower,upper,size\n0,0,3,4\n1,1,6,5\n", encoding="utf-8")
    wanted = read_buffers(path)
    for text in (
        "\nid;lower;upper;size\n0;0;3;4\n1;1;6;5\n",
        "buffer_id\tstart\tend\tsize\n0\t0\t2\t4\n1\t1\t5\t5\n",
        "lower,upper,size\n0,3,4\n1,6,5\n",
    ):
        path.write_text(text, encoding="utf-8")
        assert read_buffers(path) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "id,lower,upper,size\nb1,0,3,4\n",
        "\ufeffid,lower,upper,size\nb1,0,3,4\n",
        "id,lower,upper,size\r\n\r\nb1,0,3,4\r\n\r\n",
        "\n\nid,lower,upper,size\n\n  \n,,,\nb1,0,3,4",
        'SIZE, upper ,"id",lower\n 4,3,"b1",+0\n',
        "buffer_id,start,end,size,offset,hint,alignment,gaps\nb1,0,2,4,-1,7,,\n",
    ],
)
def test_reads_what_others_write(tmp_path: Path, text: str) -> None:
    assert read_buffers(write(tmp_path, text)) == [Buffer(name="b1", lower=0, upper=3, size_bytes=4)]


def test_a_blank_line_does_not_end_the_file(tmp_path: Path) -> None:
    assert len(read_buffers(write(tmp_path, HEADER + "a,0,1,1\n\nb,0,1,1\n"))) == 2


def test_quoted_ids_keep_commas_and_quotes(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + '"a,""x""",0,1,1\n')
    buffers = read_buffers(path)
    assert buffers[0].name == 'a,"x"'
    write_packing(path, buffers, [0])
    assert read_buffers(path)[0].name == 'a,"x"'


@pytest.mark.parametrize(
    ("content", "where", "what"),
    [
        ("", "p.csv: ", "is empty"),
        (HEADER + "a,0,3\n", ":2: ", "3 fields, but the header has 4"),
        (HEADER + "a,0,3,4,5\n", ":2: ", "5 fields"),
        ("id,lower,size\n", ":1: ", "missing column upper"),
        ("id,size\na,4\n", ":1: ", "missing column lower, upper"),
        ("id,lower,upper,size,size\n", ":1: ", "column 'size' appears twice"),
        ("id,lower,upper,end,size\n", ":1: ", "column 'upper' appears twice"),
        ("id,lower,upper,size,colour\n", ":1: ", "unknown column 'colour'"),
        (HEADER + "a,0,nan,4\n", ":2: ", "upper must be a whole number, got 'nan'"),
        (HEADER + "a,0,3,4.5\n", ":2: ", "size must be a whole number"),
        (HEADER + "a,0,3,\n", ":2: ", "size must be a whole number, got ''"),
        (HEADER + "a,0,3,٣\n", ":2: ", "size must be a whole number"),
        (HEADER + "a,0,3,-4\n", ":2: ", "need 0 <= size"),
        (HEADER + "a,4,3,4\n", ":2: ", "need lower <= upper, got 4 and 3"),
        (HEADER + f"a,0,3,{10**17}\n", ":2: ", "2**53"),
        (HEADER + f"a,0,3,{'9' * 5000}\n", ":2: ", "size is too large"),
        (HEADER + "a,0,3,4\n\na,0,3,4\n", ":4: ", "id 'a' was already used on line 2"),
        ("id,lower,upper,size,offset\na,0,3,4,x\n", ":2: ", "offset must be a whole number"),
        ("id,lower,upper,size,alignment,offset\na,0,3,4,4,6\n", ":2: ", "not a multiple of its alignment"),
        ("id,lower,upper,size,gaps\na,0,3,4,1-x\n", ":2: ", "does not read as LOWER-UPPER"),
        (HEADER + 'a,0,3,"4\n', ":2: ", "is not CSV"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "p.csv:1: ", "not UTF-8 text"),
    ],
)
def test_bad_files_get_one_line_with_the_place(tmp_path: Path, content: str | bytes, where: str, what: str) -> None:
    with pytest.raises(TraceError) as caught:
        read_buffers(write(tmp_path, content))
    text = str(caught.value)
    assert where in text
    assert what in text
    assert "\n" not in text


@given(st.one_of(st.binary(max_size=200), st.text(alphabet='id,lowerupsz0123456789-"\n\r\x00 ', max_size=200)))
@settings(max_examples=500)
def test_garbage_never_escapes(tmp_path_factory: pytest.TempPathFactory, content: str | bytes) -> None:
    path = write(tmp_path_factory.mktemp("fuzz"), content if isinstance(content, bytes) else HEADER + content)
    buffers: list[Buffer] = []
    with contextlib.suppress(TraceError):  # anything else is a bug
        buffers = read_buffers(path)
    if buffers:
        rows = [line for line in path.read_text("utf-8-sig").splitlines() if line.strip(' ,"')]
        assert len(buffers) <= len(rows) - 1


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.csv", tmp_path):
        with pytest.raises(TraceError, match=r"cannot read|is a folder"):
            read_buffers(path)


@pytest.mark.parametrize(
    "wrong",
    [{"upper": -1}, {"size_bytes": -1}, {"alignment_bytes": 0}, {"fixed_offset": -1}, {"upper": 2**60}],
)
def test_a_buffer_is_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="'b'"):
        Buffer(**({"name": "b", "lower": 0, "upper": 3, "size_bytes": 4} | wrong))  # type: ignore[arg-type]


def test_names_come_back_as_they_were(tmp_path: Path) -> None:
    names = ["a=b", "=1+1", "'=1", "''-2", "'-2", "-2", "'quoted", "@x", "-", "x,y", 'say "hi"']
    buffers = [Buffer(name=name, lower=0, upper=1, size_bytes=1) for name in names]
    write_packing(tmp_path / "p.csv", buffers, list(range(len(names))))
    assert [buffer.name for buffer in read_buffers(tmp_path / "p.csv")] == names
    assert "\n'=1+1," in (tmp_path / "p.csv").read_text(encoding="utf-8")
