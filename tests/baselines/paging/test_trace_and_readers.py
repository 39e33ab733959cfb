"""Readers: what they read back equals what was written, and every broken file gets one clear line."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.baselines.paging import (
    from_chunks,
    from_ids,
    next_use,
    parse_sizes,
    read_csv,
    read_mooncake,
    read_oracle,
    read_text,
)
from mallocgame.baselines.paging import readers as readers_module
from mallocgame.baselines.paging.predict.conversation import ConversationFeatures
from mallocgame.baselines.paging.readers import ORACLE_RECORD, guess_format, read_oracle_sized, read_trace
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


def test_the_id_table_grows() -> None:
    ids = np.random.default_rng(0).integers(0, 2**63, 300_000).astype(np.uint64)
    densify = Densifier()
    got = np.concatenate([densify(part) for part in np.array_split(np.concatenate((ids, ids)), 7)])
    assert densify.num_pages == np.unique(ids).size
    assert np.array_equal(got[:300_000], got[300_000:])
    assert np.array_equal(np.unique(got[:300_000], return_index=True)[1], np.sort(np.unique(ids, return_index=True)[1]))


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_text_and_csv_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(readers_module, "BLOCK_BYTES", block)
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
        read_trace(tmp_path / "c.csv", spill=True),
    ):
        assert trace.pages.tolist() == dense(ids)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", "1\n2\n-3\n", r"a\.txt:3: a page id must not be negative, got '-3'"),
        ("a.txt", "1\n2.5\n", r"a\.txt:2: expected an integer page id, got '2\.5'"),
        ("a.txt", "one\n", r"a\.txt:1: expected an integer"),
        ("a.txt", "18446744073709551616\n", r"a\.txt:1: a page id must fit in 64 bits"),
        ("a.csv", "page,x\n1,2\n3,y\n-\n", r"a\.csv:4: expected an integer"),
        ("a.csv", "t,page\n1,2\n3\n", r"a\.csv:3: the line has too few columns"),
        ("a.jsonl", '{"hash_ids": [1]}\n', r"a\.jsonl:1: expected a JSON object with timestamp"),
        ("a.jsonl", "{\n", r"a\.jsonl:1: expected a JSON object"),
        ("a.jsonl", '{"timestamp": 0, "input_length": 1, "hash_ids": [1.5]}', r"a\.jsonl:1: hash_ids must be"),
        ("a.bin", "x" * 25, r"a\.bin: truncated: 1 bytes after record 1, a record has 24"),
        ("a.zst", "x", r"a\.zst: zstd files are not read"),
    ],
)
def test_broken_files_have_one_clear_line(tmp_path: Path, name: str, content: str, reason: str) -> None:
    (tmp_path / name).write_text(content)
    column = "page" if "t,page" in content else "0"
    with pytest.raises(InputError, match=reason) as caught:
        read_trace(tmp_path / name, column=column)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("block", [1, 4, 9])
def test_line_numbers_count_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(readers_module, "BLOCK_BYTES", block)
    (tmp_path / "a.csv").write_text("page\n1\n22\n333\n\nx\n")
    with pytest.raises(InputError, match=r"a\.csv:6: expected an integer page id, got 'x'"):
        read_csv(tmp_path / "a.csv")


def test_missing_files_and_columns(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_trace(tmp_path / "absent.txt")
    (tmp_path / "a.csv").write_text("t,page\n1,2\n")
    with pytest.raises(InputError, match="no column 'id'; there are: t, page"):
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
    monkeypatch.setattr(readers_module, "BLOCK_BYTES", 37)  # records straddle blocks
    rows = np.array([(0, 9, 512, 2), (1, 2**63 + 1, 64, -1), (2, 9, 4096, -1)], ORACLE_RECORD)
    rows.tofile(tmp_path / "t.oracleGeneral")
    assert ORACLE_RECORD.itemsize == 24
    assert read_oracle(tmp_path / "t.oracleGeneral").pages.tolist() == [0, 1, 0]
    assert read_oracle_sized(tmp_path / "t.oracleGeneral").size_bytes.tolist() == [4096, 64]
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
