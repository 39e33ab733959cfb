"""Buffers to pack, sequences of pages, bits, predictors."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from tests.fuzz.readers.shared import Reader, written

PACKING = (
    b"id,lower,upper,size,gaps,conflicts\na,0,10,8,2-4 6-8,\nb,2,4,8,,a\nc,0,9,4,1-3@0:2,a;b\n",
    b"id,lower,upper,size\na,0,4,8\nb,1,3,16\nc,2,6,8\n",
    b"buffer_id,start,end,size,alignment,offset,hint\n0,0,3,8,8,-1,0\n1,1,2,16,16,32,5\n2,2,5,8,1,,\n",
)


def _read_packing(path: Path) -> Any:
    from mallocgame.baselines.packing.buffers import read_buffers

    return read_buffers(path)


def _write_packing(path: Path, buffers: Any) -> None:
    from mallocgame.baselines.packing.buffers import write_packing

    write_packing(path, buffers, [-1 if b.fixed_offset is None else b.fixed_offset for b in buffers])


def _read_pages(kind: str) -> Callable[[Path], Any]:
    def read(path: Path) -> Any:
        from mallocgame.baselines.paging import read_trace

        return read_trace(path, kind=kind)

    return read


def _read_addresses(path: Path) -> Any:
    from mallocgame.baselines.paging import ReadOptions, read_trace

    return read_trace(path, options=ReadOptions(page_bytes=4096))


def _read_sized(path: Path) -> Any:
    from mallocgame.baselines.paging.readers import read_sized

    return read_sized(path)


def _read_bits(path: Path) -> Any:
    from mallocgame.baselines.paging.hints import read_bits

    return read_bits(str(path), 6)


PAGES_TEXT = b"# a comment\n1 2 3\n2\n18446744073709551615\n\n7 7\n"


PAGES_CSV = b"page,size\n5,4096\n6,4096\n5,4096\n7,10\n"


def _packed(pack: Callable[[bytes], bytes]) -> Callable[[], list[bytes]]:
    return lambda: [pack(PAGES_TEXT)]


PAGES_MOONCAKE = b"".join(
    json.dumps({"timestamp": t * 100, "input_length": 600 + t, "output_length": 5, "hash_ids": [0, 1, t]}).encode()
    + b"\n"
    for t in range(6)
)


def _oracle() -> list[bytes]:
    from mallocgame.baselines.paging.readers import ORACLE_RECORD

    rows = np.zeros(8, ORACLE_RECORD)
    rows["page"], rows["size_bytes"], rows["second"] = [1, 2, 3, 1, 2, 3, 9, 1], 4096, range(8)
    return [rows.tobytes()]


def _vscsi() -> list[bytes]:
    from mallocgame.baselines.paging.readers.binary import _VSCSI

    found = []
    for version, record in _VSCSI.items():
        rows = np.zeros(6, record)
        rows["version"], rows["command"] = (version << 8) | 5, 0x2A
        rows["page"], rows["size_bytes"], rows["microsecond"] = [1, 2, 3, 1, 2, 9], 512, range(6)
        found.append(rows.tobytes())
    return found


def _lcs() -> list[bytes]:
    from mallocgame.baselines.paging.readers.binary import _LCS_MAGIC, _lcs_record

    magic, found = _LCS_MAGIC.to_bytes(8, "little"), []
    for version in (1, 3, 5):
        rows = np.zeros(4, _lcs_record(version))
        rows["page"], rows["size_bytes"] = [1, 2, 1, 3], 512
        found.append((magic + version.to_bytes(8, "little")).ljust(504, b"\0") + magic + rows.tobytes())
    described = (magic + b"<IQI".ljust(120, b"\0") + bytes((2, 3))).ljust(504, b"\0") + magic  # page and size: 2 and 3
    rows = np.array([(0, 1, 512), (1, 2, 512), (2, 1, 512)], np.dtype("<u4,<u8,<u4"))
    return [*found, described + rows.tobytes()]


PROMPTS = (
    b'{"chat_id": 1, "parent_chat_id": -1, "timestamp": 0.5, "input_length": 33, "hash_ids": [1, 2, 3], "turn": 1}\n'
    b'{"chat_id": 2, "parent_chat_id": 1, "timestamp": 1.5, "input_length": 40, "hash_ids": [1, 2, 9], "turn": 2}\n',
    b'{"arrival_time": 3, "num_prompt_tokens": 32, "block_hashes": ["a1", "b2"]}\n{"block_hashes": []}\n',
)


def _predictors() -> list[bytes]:
    from mallocgame.baselines.paging.predict.boosting import Boosted
    from mallocgame.baselines.paging.predict.predictor import Predictor

    model = Boosted(
        edges=tuple(np.array([0.5], np.float32) for _ in range(6)),
        base=0.1,
        feature=np.array([[0, -1, -1]], np.int16),
        cut=np.zeros((1, 3), np.uint8),
        value=np.array([[0.0, 1.0, 2.0]], np.float32),
    )
    made = Predictor(model=model, threshold=0.5, num_frames=10, block_tokens=None)
    return [written(lambda p: made.save(p), "p.npz")]


def _read_predictor(path: Path) -> Any:
    from mallocgame.baselines.paging.predict.predictor import Predictor

    found = Predictor.load(path)
    assert np.isfinite(found.model.value).all()
    return found


READERS = (
    Reader(name="packing", suffix=".csv", seeds=lambda: list(PACKING), read=_read_packing, write=_write_packing),
    Reader(name="pages-text", suffix=".txt", seeds=lambda: [PAGES_TEXT], read=_read_pages("text")),
    Reader(name="pages-gz", suffix=".txt.gz", seeds=lambda: [gzip.compress(PAGES_TEXT)], read=_read_pages("auto")),
    *(
        Reader(name=f"pages-{name}", suffix=f".txt.{name}", seeds=_packed(pack), read=_read_pages("auto"))
        for name, pack in (("zst", zstandard.compress), ("xz", lzma.compress), ("bz2", bz2.compress))
    ),
    Reader(name="pages-csv", suffix=".csv", seeds=lambda: [PAGES_CSV], read=_read_pages("csv")),
    Reader(name="pages-oracle", suffix=".bin", seeds=_oracle, read=_read_pages("oracle")),
    Reader(name="pages-vscsi", suffix=".vscsi", seeds=_vscsi, read=_read_pages("vscsi")),
    Reader(name="pages-sized", suffix=".bin", seeds=_oracle, read=_read_sized),
    Reader(name="pages-mooncake", suffix=".jsonl", seeds=lambda: [PAGES_MOONCAKE], read=_read_pages("mooncake")),
    Reader(name="pages-lcs", suffix=".lcs", seeds=_lcs, read=_read_pages("lcs")),
    Reader(name="pages-prompts", suffix=".jsonl", seeds=lambda: list(PROMPTS), read=_read_pages("prompts")),
    Reader(name="pages-arc", suffix=".lis", seeds=lambda: [b"100 3 0 0\n7 1 0 1\n"], read=_read_pages("arc")),
    Reader(name="pages-lirs", suffix=".trc", seeds=lambda: [b"5\n6\n5\n*\n"], read=_read_pages("lirs")),
    Reader(name="pages-addresses", suffix=".txt", seeds=lambda: [b"0x1000\n0x1fFF\n8192\n"], read=_read_addresses),
    Reader(name="bits", suffix=".txt", seeds=lambda: [b"0 1 1\n0,0,1\n"], read=_read_bits),
    Reader(name="predictor", suffix=".npz", seeds=_predictors, read=_read_predictor),
)
