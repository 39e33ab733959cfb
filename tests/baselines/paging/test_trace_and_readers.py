"""Readers: what they read back equals what was written, and every broken file gets one clear line."""

import errno
import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.baselines.paging import (
    ReadOptions,
    from_chunks,
    from_ids,
    next_use,
    parse_sizes,
    read_csv,
    read_mooncake,
    read_oracle,
    read_text,
)
from mallocgame.baselines.paging.predict.conversation import ConversationFeatures
from mallocgame.baselines.paging.readers import ORACLE_RECORD, guess_format, read_sized, read_trace
from mallocgame.baselines.paging.readers import files as files_module
from mallocgame.baselines.paging.trace import Densifier
from mallocgame.errors import InputError
from tests.baselines.paging.paths import CONVERSATION
from tests.baselines.paging.reference import next_uses

IDS = st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 5), max_size=80)


def dense(ids: list[int]) -> list[int]:
    seen: dict[int, int] = {}
    return [seen.setdefault(x, len(seen)) for x in ids]


@settings(max_examples=60, deadline=None)
@given(ids=IDS, cut=st.integers(0, 80))
def test_dense_ids_and_next_uses(ids: list[int], cut: int) -> None:
    chunks = [np.array(ids[:cut], np.uint64), np.array(ids[cut:], np.uint64)]
    for spill in (False, True):
        trace = from_chunks(chunks, name="x", spill=spill)
        assert trace.pages.tolist() == dense(ids)
        assert trace.num_pages == len(set(ids))
        assert next_use(trace).tolist() == next_uses(ids)


def test_a_disk_without_room_for_a_map_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing to a map that has no room would end the process with SIGBUS."""
    trace = from_chunks([np.arange(9, dtype=np.uint64)], name="x", spill=True)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match="what --spill keeps there: No space left on device"):
        next_use(trace)


def test_the_id_table_grows() -> None:
    ids = np.random.default_rng(0).integers(0, 2**63, 300_000).astype(np.uint64)
    densify = Densifier()
    got = np.concatenate([densify(part) for part in np.array_split(np.concatenate((ids, ids)), 7)])
    assert densify.num_pages == np.unique(ids).size
    assert np.array_equal(got[:300_000], got[300_000:])
    assert np.array_equal(np.unique(got[:300_000], return_index=True)[1], np.sort(np.unique(ids, return_index=True)[1]))


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_text_and_csv_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(files_module, "BLOCK_BYTES", block)
    ids = [5, 18446744073709551615, 5, 0, 7]
    (tmp_path / "a.txt").write_text("# ids\n5 18446744073709551615\r\n\n5\t0\n7")
    (tmp_path / "b.csv").write_text("time,page,size\n" + "".join(f"{t}, {p} ,1\n" for t, p in enumerate(ids)))
    (tmp_path / "c.csv").write_text("".join(f"{p},x\n" for p in ids))
    with gzip.open(tmp_path / "a.txt.gz", "wt") as file:
        file.write("5\n18446744073709551615\n5\n0\n7\n")
    for trace in (
        read_text(tmp_path / "a.txt"),
        read_text(tmp_path / "a.txt.gz"),
        read_csv(tmp_path / "b.csv", column="page"),
        read_csv(tmp_path / "b.csv", column="1"),
        read_trace(tmp_path / "c.csv", column="0", spill=True),
    ):
        assert trace.pages.tolist() == dense(ids)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", "1\n2\n-3\n", r"a\.txt:3: a page id must not be negative, got '-3'"),
        ("a.txt", "1\n2.5\n", r"a\.txt:2: expected an integer page id, got '2\.5'"),
        ("a.txt", "1\n*\n2\n", r"a\.txt:2: .* a mark of LIRS traces"),
        ("a.txt", "1 7\n2 8\n", r"a\.txt: every line has 2 columns; the first line has 0: 1, 1: 7; choose one"),
        ("a.txt", "1,7\n2,8\n", r"a\.txt: looks like a table; .* choose one with --column"),
        ("a.log", '{"timestamp": 1}\n{"timestamp": 2}\n', r"a\.log: looks like JSON Lines; say --format prompts"),
        ("a.txt", "1\x002\n", r"a\.txt: not text: it holds NUL bytes"),
        ("a.txt", "\ufeff".encode("utf-16") + b"1\n", r"a\.txt: UTF-16 text"),
        ("a.txt", "1\r2\r", r"a\.txt: lines end in CR alone"),
        ("a.csv", "page,x\n1,2\n3,y\n-\n", r"a\.csv:4: the line does not have as many columns as the first"),
        ("a.csv", "page,x\n1,2\n3,y,z\n", r"a\.csv:3: the line does not have as many columns as the first"),
        ("a.csv", "page,x\n1,2\n,4\n", r"a\.csv:3: the page id is empty"),
        ("a.csv", "t,page\n1,2\n3\n", r"a\.csv:3: the line has too few columns"),
        ("a.csv", "t,page\n1,2.5\n", r"a\.csv:2: expected an integer page id, got '2\.5'"),
        ("a.csv", 't,page\n1,"2\n', r"a\.csv:2: a quoted field does not end on its line"),
        ("a.csv", 't,page\n1,"2"3\n', r"a\.csv:2: a closing quote must be followed by a delimiter"),
        ("a.csv", "t,op\n1,2\n", r"a\.csv: choose the column .* the columns are 0: t, 1: op"),
        ("a.csv", "key,id\n1,2\n", r"a\.csv: choose the column .* the columns are 0: key, 1: id"),
        ("a.csv", "1,2\n3,4\n", r"a\.csv: choose the column .* the first line has 0: 1, 1: 2"),
        ("a.tsv", "1\t2\n3\t4\n", r"a\.tsv: choose the column"),
        ("a.jsonl", '{"timestamp": 1}\n', r"a\.jsonl:1: expected a JSON object with timestamp"),
        ("a.jsonl", "{\n", r"a\.jsonl:1: expected a JSON object"),
        ("a.jsonl", "[1]\n", r"a\.jsonl:1: expected a JSON object"),
        ("a.jsonl", '{"timestamp": 0, "input_length": 1, "hash_ids": [1.5]}', r"a\.jsonl:1: hash_ids must be"),
        ("a.jsonl", '{"timestamp": 0, "input_length": 1, "hash_ids": [true]}', r"a\.jsonl:1: hash_ids must be"),
        ("a.jsonl", '{"timestamp": "x", "input_length": 1, "hash_ids": [1]}', r"a\.jsonl:1: timestamp must be"),
        ("a.jsonl", '{"event": "BlockStored", "block_hashes": [1]}', r"a\.jsonl:1: an event of a KV cache"),
        ("a.jsonl", '{"input_length": 9, "hash_ids": [1]}\n{"input_length": 9, "hash_ids": [1, 2, 3]}', "no size of a"),
        ("a.bin", "x" * 25, r"a\.bin: truncated: 1 bytes after record 1, a record has 24"),
        ("a.zst", "x", r"a\.zst: cannot unpack: the file is named \.zst"),
        ("a.lcs", "x" * 9000, r"a\.lcs: not an lcs file"),
        ("a.vscsi", "x" * 64, r"a\.vscsi: not a vscsi file"),
        ("a.lis", "5 2 0 1\n7 0 0 2\n", r"a\.lis:2: a request is for 1 to 1048576 blocks, got 0"),
        ("a.lis", "5 2 0\n", r"a\.lis:1: the line does not have as many columns"),
        ("a.lis", "x 2 0 1\n", r"a\.lis:1: expected a block number"),
    ],
)
def test_broken_files_have_one_clear_line(tmp_path: Path, name: str, content: str | bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    column = "page" if "page" in str(content) and "no column" not in reason else None
    with pytest.raises(InputError, match=reason) as caught:
        read_trace(tmp_path / name, column=column)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("block", [1, 4, 9])
def test_line_numbers_count_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(files_module, "BLOCK_BYTES", block)
    (tmp_path / "a.csv").write_text("page\n1\n22\n333\n\n-4\n")
    with pytest.raises(InputError, match=r"a\.csv:6: a page id must not be negative, got '-4'"):
        read_csv(tmp_path / "a.csv")
    with pytest.raises(InputError, match=r"a\.csv:6: expected an integer page id below 2\*\*64, got '-4'"):
        read_csv(tmp_path / "a.csv", options=ReadOptions(keys="integer"))


def test_missing_files_and_columns(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_trace(tmp_path / "absent.txt")
    (tmp_path / "a.csv").write_text("t,page\n1,2\n")
    with pytest.raises(InputError, match="no column 'id': the columns are 0: t, 1: page"):
        read_csv(tmp_path / "a.csv", column="id")
    with pytest.raises(InputError, match="unknown trace format"):
        read_trace(tmp_path / "a.csv", kind="zip")
    (tmp_path / "a.txt.gz").write_bytes(b"not gzip")
    with pytest.raises(InputError, match="cannot unpack"):
        read_trace(tmp_path / "a.txt.gz")


def test_empty_files_are_empty_traces(tmp_path: Path) -> None:
    for name in ("a.txt", "a.csv", "a.bin", "a.jsonl"):
        (tmp_path / name).write_bytes(b"")
        trace = read_trace(tmp_path / name)
        assert (trace.num_requests, trace.num_pages) == (0, 0)


def test_oracle_general(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "BLOCK_BYTES", 37)  # records straddle blocks
    rows = np.array([(0, 9, 512, 2), (1, 2**63 + 1, 64, -1), (2, 9, 4096, -1)], ORACLE_RECORD)
    rows.tofile(tmp_path / "t.oracleGeneral")
    assert ORACLE_RECORD.itemsize == 24
    assert read_oracle(tmp_path / "t.oracleGeneral").pages.tolist() == [0, 1, 0]
    assert read_sized(tmp_path / "t.oracleGeneral").size_bytes.tolist() == [4096, 64]
    assert guess_format("x.oracleGeneral.gz") == "oracle"


def test_mooncake_context_knows_only_the_past(tmp_path: Path) -> None:
    rows = [
        {"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [1, 2, 3]},
        {"timestamp": 4000, "input_length": 2048, "output_length": 9, "hash_ids": [1, 2, 4, 5]},
        {"timestamp": 9000, "input_length": 512, "output_length": 9, "hash_ids": [1]},
    ]

    def write(chosen: list[dict[str, object]]) -> Path:
        path = tmp_path / f"{len(chosen)}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in chosen))
        return path

    whole, part = read_mooncake(write(rows)), read_mooncake(write(rows[:2]))
    assert whole.pages.tolist() == [0, 1, 2, 0, 1, 3, 4, 0]
    assert whole.context is not None
    assert part.context is not None
    assert np.array_equal(whole.context.values[:7], part.context.values)  # what comes later changes nothing
    column = dict(zip(ConversationFeatures.NAMES, whole.context.values.T, strict=True))
    assert column["partial_last"].tolist() == [0, 0, 1, 0, 0, 0, 0, 0]
    assert column["known_prefix"].tolist() == [0, 0, 0, 2, 2, 2, 2, 1]
    assert column["beyond_prefix"].tolist() == [0, 1, 2, -2, -1, 0, 1, -1]
    assert column["seconds_since_turn"].tolist()[3:] == [4, 4, 4, 4, 5]
    assert column["seconds_between_turns"].tolist()[7] == 4


def test_output_length_is_not_read(tmp_path: Path) -> None:
    """The number of tokens a request will produce is not known when it arrives."""
    for output in (1, 10_000):
        row = {"timestamp": 0, "input_length": 600, "output_length": output, "hash_ids": [1, 2]}
        (tmp_path / f"{output}.jsonl").write_text(json.dumps(row))
    one, other = (read_mooncake(tmp_path / f"{output}.jsonl").context for output in (1, 10_000))
    assert one is not None
    assert other is not None
    assert np.array_equal(one.values, other.values)


@pytest.mark.skipif(not CONVERSATION.exists(), reason="shared data absent")
def test_the_conversation_trace_reads_whole() -> None:
    trace = read_mooncake(CONVERSATION)
    lines = CONVERSATION.read_text().splitlines()
    assert trace.num_requests == sum(len(json.loads(line)["hash_ids"]) for line in lines)


@pytest.mark.parametrize("ids", [[-1, 2], [[1]], [0.5]])
def test_bad_ids_are_refused(ids: list[object]) -> None:
    with pytest.raises(InputError, match="page ids must"):
        from_ids(ids)


def test_sizes() -> None:
    trace = from_ids(np.arange(200))
    assert parse_sizes("1, 10%,0.1%", trace) == [1, 20, 1]
    for text in ("0", "-3", "x", "", "0%", "nan%"):
        with pytest.raises(InputError, match=r"cache (needs|size)"):
            parse_sizes(text, trace)
