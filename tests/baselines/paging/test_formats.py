"""Every file format against what was written into it; tables, keys and prompts that could be misread."""

import bz2
import gzip
import json
import lzma
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.baselines.paging import ReadOptions, from_keys, read_csv, read_prompts, read_sized, read_trace
from mallocgame.baselines.paging.readers import ORACLE_RECORD
from mallocgame.baselines.paging.readers import files as files_module
from mallocgame.errors import InputError, TraceError

WORDS = st.text(st.characters(blacklist_characters="\r\n\0", blacklist_categories=("Cs",)), min_size=1, max_size=6)


def dense(ids: list[object]) -> list[int]:
    seen: dict[object, int] = {}
    return [seen.setdefault(x, len(seen)) for x in ids]


@settings(max_examples=80, deadline=None)
@given(keys=st.lists(WORDS, min_size=1, max_size=12), block=st.sampled_from((1, 5, 1 << 20)))
def test_quoted_keys_of_any_text_are_told_apart(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str], block: int
) -> None:
    keys = [key for key in keys if key.strip() == key] or ["a"]
    path = tmp_path_factory.mktemp("q") / "q.csv"
    lines = ['{},"{}",x\n'.format(i, key.replace('"', '""')) for i, key in enumerate(keys)]
    path.write_text("n,key,o\n" + "".join(lines), encoding="utf-8")
    patch = pytest.MonkeyPatch()
    with patch.context() as patched:
        patched.setattr(files_module, "BLOCK_BYTES", block)
        got = read_trace(path, options=ReadOptions(keys="text"))
    assert got.pages.tolist() == dense(list(keys))


def test_integers_hex_and_text_keys(tmp_path: Path) -> None:
    cases = {
        "7\n007\n8\n": [0, 0, 1],  # all integers: 007 is 7
        "7\n007\nx\n": [0, 1, 2],  # not all: text
        "0x1F\n0x1f\n0x01f\n0x2\n": [0, 0, 0, 1],
        "a9\n12\n1e5\na9\n": [0, 1, 2, 0],
        "18446744073709551616\n18446744073709551617\n": [0, 1],  # beyond 64 bits
        "block\n7\n8\n7\n": [0, 1, 0],  # a heading over integers
        "key\nuser:1\nuser:2\nuser:1\n": [0, 1, 0],
        "user:1\nuser:2\n": [0, 1],
        "\ufeff5\n6\n5\n": [0, 1, 0],
        "5\n6\n5": [0, 1, 0],
        "# c\n\n5\n": [0],
    }
    for text, wanted in cases.items():
        (tmp_path / "k.txt").write_text(text, encoding="utf-8")
        assert read_trace(tmp_path / "k.txt").pages.tolist() == wanted, text
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe1\n" * 2)  # looks like UTF-16: refused, not guessed
    with pytest.raises(InputError, match="UTF-16"):
        read_trace(tmp_path / "b.txt")
    (tmp_path / "b.txt").write_bytes(b"\xc3\n\xc4\n\xc3\n")  # any other bytes are keys
    assert read_trace(tmp_path / "b.txt").pages.tolist() == [0, 1, 0]
    (tmp_path / "n.txt").write_text("1\n-2\n2.5\n-2\n")
    assert read_trace(tmp_path / "n.txt", options=ReadOptions(keys="text")).pages.tolist() == [0, 1, 2, 1]
    with pytest.raises(InputError, match="keys are auto"):
        ReadOptions(keys="hex")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.booleans()), min_size=1, max_size=12), st.integers(1, 2**40))
def test_addresses_fall_into_pages(
    tmp_path_factory: pytest.TempPathFactory, accesses: list[tuple[int, bool]], page_bytes: int
) -> None:
    folder, options = tmp_path_factory.mktemp("a"), ReadOptions(page_bytes=page_bytes)
    words = [hex(address) if is_hex else str(address) for address, is_hex in accesses]
    (folder / "a.txt").write_text("\n".join(words))
    (folder / "a.csv").write_text("op,addr\n" + "".join(f"r,{word}\n" for word in words))
    for name in ("a.txt", "a.csv"):
        pages = read_trace(folder / name, options=options).pages.tolist()
        assert pages == dense([address // page_bytes for address, _ in accesses])


def test_what_may_be_addresses_is_said_and_what_is_none_refused(tmp_path: Path) -> None:
    texts = ("0x1000\n0x1008\n", "addr\n4096\n4104\n", "op,addr\nr,4096\n", "7\n8\n", "op,page\nr,7\n")
    for text, noted in zip(texts, (True, True, True, False, False), strict=True):
        path = tmp_path / ("a.csv" if "," in text else "a.txt")
        path.write_text(text)
        assert any("--page-bytes" in note for note in read_trace(path).notes) == noted, text
        assert not any("--page-bytes" in note for note in read_trace(path, options=ReadOptions(page_bytes=8)).notes)
    for word in ("0xzz", "0x0x1000", "-5", "1_0", "0x-1", "0x", "1e3", "9" * 5000, hex(2**64)):
        (tmp_path / "a.txt").write_text(f"0x1000\n{word}\n")
        with pytest.raises(TraceError, match=r"a\.txt:2: expected a byte address"):
            read_trace(tmp_path / "a.txt", options=ReadOptions(page_bytes=4096))
    for wrong in ({"page_bytes": 0}, {"page_bytes": 8, "keys": "text"}):
        with pytest.raises(InputError):
            ReadOptions(**wrong)
    with pytest.raises(InputError, match="read as arc"):
        read_trace(tmp_path / "a.txt", options=ReadOptions(page_bytes=8, format="arc"))


def test_columns_are_found_or_asked_for(tmp_path: Path) -> None:
    cases: list[tuple[str, str | None, list[int]]] = [
        ("version,time,op,size,block\n1,10,r,4096,7\n1,11,r,4096,8\n1,12,w,4096,7\n", None, [0, 1, 0]),
        ("version,time,op,size,LBN\n1,10,r,4096,7\n", None, [0]),
        ("version,time,op,size,block\n1,10,r,4096,7\n2,11,r,4096,8\n", "0", [0, 1]),
        ("0,user:17,7,100,1,get,0\n0,user:18,7,100,1,get,0\n1,user:17,7,100,2,get,0\n", "1", [0, 1, 0]),
        ("# time, object, size\n0, 13, 7\n0, 61, 2\n9, 13, 7\n", None, [0, 1, 0]),
        ("# made by a tool\n0,13\n0,61\n", "1", [0, 1]),
        ('"time","the key"\n1,"a,b"\n2,"a"\n3,"a,b"\n', "the key", [0, 1, 0]),
        ('t,k\n1,"say ""hi"""\n2,say\n', "k", [0, 1]),
        ("time;key\n1;a\n2;b\n3;a\n", None, [0, 1, 0]),
        ("a|b\n1|9\n2|8\n", "B", [0, 1]),
        ("alice,get\nbob,set\nalice,get\n", "0", [0, 1, 0]),  # no header: nothing below it is a value
        ("user:1,GET\n17,GET\nuser:1,PUT\n", "0", [0, 1, 0]),  # keys that are numbers now and then: no header
        ("\ufefft,page\n1,5\n2,5\n", None, [0, 0]),
        ("5\n6\n5\n", None, [0, 1, 0]),
        ("page\n", None, []),
    ]
    for text, column, wanted in cases:
        (tmp_path / "t.csv").write_text(text, encoding="utf-8")
        assert read_csv(tmp_path / "t.csv", column=column).pages.tolist() == wanted, text
    (tmp_path / "t.tsv").write_text("a\t\t7\nb\tx\t8\n")
    assert read_trace(tmp_path / "t.tsv", column="2").pages.tolist() == [0, 1]  # an empty field is a field
    (tmp_path / "t.log").write_text("1  7 r\n22 8 w\n 3 7 r\n")
    assert read_trace(tmp_path / "t.log", column="1").pages.tolist() == [0, 1, 0]
    (tmp_path / "t.csv").write_text("x,y\na,b\n")
    assert read_csv(tmp_path / "t.csv", column="y", options=ReadOptions(header=True)).pages.tolist() == [0]
    assert read_csv(tmp_path / "t.csv", column="1", options=ReadOptions(header=False)).num_requests == 2
    (tmp_path / "t.txt").write_text("1 7\n2 8\n")
    assert read_trace(tmp_path / "t.txt", kind="text").num_requests == 4  # said so: every number is an id
    with pytest.raises(InputError, match="one ASCII character"):
        ReadOptions(delimiter="ab")


def test_what_was_assumed_is_noted(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("t,size,key\n1,0,a\n2,5,b\n3,5,b\n")
    trace = read_trace(tmp_path / "t.csv", options=ReadOptions(size_column="size"))
    assert trace.pages.tolist() == [0, 0]
    assert trace.notes[0].startswith("column 'key' is taken as the page id")
    assert trace.notes[1] == "skipped 1 records of size 0, as libCacheSim does"
    sized = read_sized(tmp_path / "t.csv", options=ReadOptions(size_column="1"))
    assert (sized.pages.pages.tolist(), sized.size_bytes.tolist()) == ([0, 0], [5])
    with pytest.raises(InputError, match="sizes are known for"):
        read_sized(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("key,size\na,x\n")
    with pytest.raises(InputError, match=r"t\.csv:2: a size must be a number of bytes, got 'x'"):
        read_trace(tmp_path / "t.csv", options=ReadOptions(size_column="size"))


def test_packed_files_are_known_by_their_first_bytes(tmp_path: Path) -> None:
    data = b"5\n6\n5\n"
    packed = {"gz": gzip.compress(data), "xz": lzma.compress(data), "bz2": bz2.compress(data)}
    if shutil.which("zstd"):
        packed["zst"] = subprocess.run(["zstd", "-c"], input=data, capture_output=True, check=True).stdout
    for suffix, content in packed.items():
        for name in (f"t.txt.{suffix}", "t.txt"):
            (tmp_path / name).write_bytes(content)
            assert read_trace(tmp_path / name).pages.tolist() == [0, 1, 0]
        (tmp_path / f"cut.txt.{suffix}").write_bytes(content[:-3] if suffix != "bz2" else content[:-12])
        with pytest.raises(InputError, match="cannot unpack"):
            read_trace(tmp_path / f"cut.txt.{suffix}")
    (tmp_path / "t.txt.gz").write_bytes(data)
    with pytest.raises(InputError, match=r"cannot unpack: the file is named \.gz"):
        read_trace(tmp_path / "t.txt.gz")
    with pytest.raises(InputError, match="not a regular file"):
        read_trace("/dev/null")


def lcs_header(size: int, version: int) -> bytes:
    magic = struct.pack("<Q", 0x123456789ABCDEF0)
    return (magic + struct.pack("<Q", version)).ljust(size - 8, b"\0") + magic


@pytest.mark.parametrize("version", range(1, 9))
def test_lcs_of_every_version(tmp_path: Path, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "BLOCK_BYTES", 777)  # the header and the records straddle blocks
    rows = [(9, 10), (4, 7), (9, 10), (3, 0)]
    features = {4: 1, 5: 2, 6: 4, 7: 8, 8: 16}.get(version, 0)
    records = {
        1: [struct.pack("<IQIq", 1, page, size, -1) for page, size in rows],
        2: [struct.pack("<IQIIq", 1, page, size, 0, -1) for page, size in rows],
    }.get(version, [struct.pack("<IQqIIq", 1, page, size, 0, 5, -1) + b"\1" * 4 * features for page, size in rows])
    path = tmp_path / "t.lcs"
    path.write_bytes(lcs_header(8192, version) + b"".join(records))
    trace = read_trace(path)
    assert trace.pages.tolist() == [0, 1, 0]  # the empty record is skipped
    assert "skipped 1 records" in trace.notes[0]
    assert read_sized(path).size_bytes.tolist() == [10, 7]
    path.write_bytes(lcs_header(8192, 9))
    with pytest.raises(InputError, match="lcs version 9 is not known"):
        read_trace(path)


def test_lcs_that_describes_itself(tmp_path: Path) -> None:
    magic = struct.pack("<Q", 0x123456789ABCDEF0)
    head = magic + b"<IQHI".ljust(240, b"\0") + bytes([2, 4, 1])
    path = tmp_path / "t.lcs"
    path.write_bytes(head.ljust(1016, b"\0") + magic + b"".join(struct.pack("<IQHI", 0, p, 1, 9) for p in (5, 6, 5)))
    assert read_trace(path).pages.tolist() == [0, 1, 0]
    assert read_sized(path).size_bytes.tolist() == [9, 9]


def test_vscsi_of_both_versions(tmp_path: Path) -> None:
    one = [struct.pack("<IIIHHQQ", 0, 512, 1, 42, 1 << 8, page, 3) for page in (8, 9, 8)]
    two = [struct.pack("<HHIIIQQQ", 42, 2 << 8, 0, 0, 1, page, 3, 0) for page in (8, 9, 8)]
    for records, size in ((one, 512), (two, 1)):
        (tmp_path / "t.vscsi").write_bytes(b"".join(records))
        assert read_trace(tmp_path / "t.vscsi").pages.tolist() == [0, 1, 0]  # libCacheSim keeps empty ones here
        assert read_sized(tmp_path / "t.vscsi").size_bytes.tolist() == [size, size]
    (tmp_path / "t.vscsi").write_bytes(b"".join(one)[:-1])
    with pytest.raises(InputError, match="truncated"):
        read_trace(tmp_path / "t.vscsi")


def test_oracle_records_of_size_0_are_skipped_as_libcachesim_does(tmp_path: Path) -> None:
    rows = np.array([(0, 1, 10, 2), (0, 2, 0, -1), (0, 1, 10, -1), (0, 3, 5, -1), (0, 2, 0, -1)], ORACLE_RECORD)
    path = tmp_path / "t.oracleGeneral"
    rows.tofile(path)
    assert read_trace(path).pages.tolist() == [0, 0, 1]
    libcachesim = pytest.importorskip("libcachesim")
    reader = libcachesim.TraceReader(str(path), libcachesim.TraceType.ORACLE_GENERAL_TRACE)
    assert read_trace(path).pages.tolist() == dense([request.obj_id for request in reader])
    (tmp_path / "t.bin").write_bytes(lcs_header(8192, 1))
    with pytest.raises(InputError, match="read it with --format lcs"):
        read_trace(tmp_path / "t.bin")


def test_arc_and_lirs(tmp_path: Path) -> None:
    (tmp_path / "t.lis").write_text("5 3 0 1\n6 1 0 2\n9 2 0 3\n")
    assert read_trace(tmp_path / "t.lis").pages.tolist() == dense([5, 6, 7, 6, 9, 10])
    (tmp_path / "t.trc").write_text("5\n*\n6\n5\n*\n")
    assert read_trace(tmp_path / "t.trc").pages.tolist() == [0, 1, 0]


def write_prompts(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_prompts_of_other_servers(tmp_path: Path) -> None:
    bailian = [
        {"chat_id": 1, "parent_chat_id": -1, "timestamp": 61.1, "input_length": 40, "type": "text", "turn": 1,
         "hash_ids": [7, 8, 9]},
        {"chat_id": 2, "parent_chat_id": 1, "timestamp": 63.1, "input_length": 50, "type": "text", "turn": 2,
         "hash_ids": [7, 8, 10, 11]},
    ]  # fmt: skip
    trace = read_prompts(write_prompts(tmp_path / "b.jsonl", bailian))
    assert trace.pages.tolist() == [0, 1, 2, 0, 1, 3, 4]
    assert trace.prompts is not None
    assert (trace.prompts.starts.tolist(), trace.prompts.block_tokens) == ([0, 3, 7], 16)
    assert trace.parents().tolist() == [-1, 0, 1, -1, 0, 1, 3]
    assert trace.context is not None
    silence = trace.context.values[3:, trace.context.names.index("seconds_since_turn")]
    assert silence.tolist() == pytest.approx([2.0] * 4)  # seconds, not milliseconds
    assert any("seconds" in note for note in trace.notes)
    vllm = [{"block_hashes": [str(2**200), "a"]}, {"block_hashes": [str(2**200), "b"]}, {"block_hashes": []}]
    trace = read_prompts(write_prompts(tmp_path / "v.jsonl", vllm))
    assert trace.pages.tolist() == [0, 1, 0, 2]
    assert trace.prompts is not None
    assert trace.prompts.starts.tolist() == [0, 2, 4, 4]
    big = read_prompts(write_prompts(tmp_path / "g.jsonl", [{"block_hashes": [2**200, 2**200 + 1, 5]}]))
    assert big.pages.tolist() == [0, 1, 2]


def test_one_hash_under_two_prefixes_is_two_blocks(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"input_length": 1024, "hash_ids": ids} for ids in ([1, 5], [2, 5], [1, 5])]
    trace = read_prompts(write_prompts(tmp_path / "t.jsonl", rows))
    assert trace.pages.tolist() == [0, 1, 2, 3, 0, 1]
    assert any("different prefixes" in note for note in trace.notes)


def test_parts_of_prompts(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"input_length": 5, "hash_ids": [1, 2, 3]}, {"input_length": 4, "hash_ids": [1, 2]}
    ]  # fmt: skip
    trace = read_prompts(write_prompts(tmp_path / "t.jsonl", rows), options=ReadOptions(block_tokens=2))
    part = trace[1:4]
    assert part.prompts is not None
    assert (part.prompts.starts.tolist(), part.prompts.tokens.tolist()) == ([0, 2, 3], [3, 2])
    assert part.parents().tolist() == [-1, 1, -1]
    assert (trace.prompt_start(2), trace.prompt_start(3), trace.prompt_start(4)) == (0, 3, 3)


def test_keys_of_any_kind() -> None:
    assert from_keys([("a", 1), b"a", "a", 2**200, ("a", 1)]).pages.tolist() == [0, 1, 2, 3, 0]
