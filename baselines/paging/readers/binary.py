"""Binary traces of storage and key-value caches: libCacheSim's oracleGeneral and lcs, VMware's vscsi.

Source of the layouts: libCacheSim's readers (github.com/1a1a11a/libCacheSim, traceReader/). Records of size 0 of
oracleGeneral and lcs are skipped, as libCacheSim does by default; it keeps those of vscsi.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mallocgame.baselines.paging.readers.files import Progress, blocks
from mallocgame.baselines.paging.readers.options import ReadOptions
from mallocgame.baselines.paging.readers.table import zero_note
from mallocgame.baselines.paging.structures import U64
from mallocgame.baselines.paging.trace import PageTrace, from_chunks
from mallocgame.errors import TraceError

StrPath = str | os.PathLike[str]
ORACLE_RECORD = np.dtype([("second", "<u4"), ("page", "<u8"), ("size_bytes", "<u4"), ("next_request", "<i8")])
_VSCSI = {
    1: np.dtype(
        [("number", "<u4"), ("size_bytes", "<u4"), ("segments", "<u4"), ("command", "<u2"), ("version", "<u2"),
         ("page", "<u8"), ("microsecond", "<u8")]
    ),
    2: np.dtype(
        [("command", "<u2"), ("version", "<u2"), ("number", "<u4"), ("size_bytes", "<u4"), ("segments", "<u4"),
         ("page", "<u8"), ("microsecond", "<u8"), ("response", "<u8")]
    ),
}  # fmt: skip
_LCS_MAGIC = 0x123456789ABCDEF0
_LCS_HEADERS = (8192, 1024, 512)
_LCS_FEATURES = {4: 1, 5: 2, 6: 4, 7: 8, 8: 16}
_FORMAT_TYPES = {
    "b": "i1", "c": "i1", "B": "u1", "h": "<i2", "H": "<u2", "i": "<i4", "I": "<u4", "l": "<i4", "L": "<u4",
    "q": "<i8", "Q": "<u8", "f": "<f4", "d": "<f8",
}  # fmt: skip


@dataclass(slots=True, kw_only=True)
class RecordFormat:
    """The records of a binary file, chunk by chunk, each an array with the fields ``page`` and ``size_bytes``."""

    path: Path
    record: Any
    offset: int = 0
    skip_empty: bool = True
    skipped: int = field(default=0)

    def chunks(self, on_progress: Progress | None = None) -> Iterator[Any]:
        """Yield the records.

        Raises:
            TraceError: the file is not a whole number of records.
        """
        rest, count, size, self.skipped = b"", 0, self.record.itemsize, 0
        left = self.offset
        for block in blocks(self.path, on_progress):
            data = rest + block
            if left:
                data, left = data[left:], max(0, left - len(data))
            whole = len(data) - len(data) % size
            rest = data[whole:]
            count += whole // size
            rows = np.frombuffer(data[:whole], self.record)
            if self.skip_empty and "size_bytes" in (self.record.names or ()):
                keep = rows["size_bytes"] > 0
                self.skipped += int(np.sum(~keep))
                rows = rows if keep.all() else rows[keep]
            yield rows
        if rest or left:
            raise TraceError(self.path, None, f"truncated: {len(rest)} bytes after record {count}, a record has {size}")


def oracle_records(path: StrPath, *, on_progress: Progress | None = None) -> Iterator[Any]:
    """Yield arrays of oracleGeneral records: second, page, size_bytes, next_request (24 bytes, packed); no empty ones.

    Raises:
        TraceError: the file is not a whole number of records.
    """
    return open_records(Path(path), "oracle").chunks(on_progress)


def open_records(path: Path, kind: str) -> RecordFormat:
    """Find the layout of a binary file of format "oracle", "lcs" or "vscsi"."""
    head = next(blocks(path, size=1 << 14), b"")
    if kind == "lcs":
        return _open_lcs(path, head)
    if kind == "vscsi":
        return _open_vscsi(path, head)
    if head[:8] == _LCS_MAGIC.to_bytes(8, "little"):
        raise TraceError(path, None, "an lcs file, not oracleGeneral: read it with --format lcs")
    return RecordFormat(path=path, record=ORACLE_RECORD)


def _open_vscsi(path: Path, head: bytes) -> RecordFormat:
    """The version stands in the high byte of two bytes, at another place in each version; both first records count."""
    for version in (2, 1):
        record = _VSCSI[version]
        if not head:
            return RecordFormat(path=path, record=record, skip_empty=False)
        rows = np.frombuffer(head[: min(2, len(head) // record.itemsize) * record.itemsize], record)
        if rows.size and (rows["version"] >> 8 == version).all():
            return RecordFormat(path=path, record=record, skip_empty=False)
    raise TraceError(path, None, "not a vscsi file: its first records are of neither version 1 nor 2")


def _open_lcs(path: Path, head: bytes) -> RecordFormat:
    if not head:
        return RecordFormat(path=path, record=ORACLE_RECORD)
    magic = _LCS_MAGIC.to_bytes(8, "little")
    sizes = [size for size in _LCS_HEADERS if len(head) >= size and head[size - 8 : size] == magic]
    if head[:8] != magic or not sizes:
        raise TraceError(path, None, "not an lcs file: no magic number at the start and the end of its header")
    if head[8:9] in b"<=@":
        return _described_lcs(path, head, sizes[-1])
    version = int.from_bytes(head[8:16], "little")
    if not 1 <= version <= 8:
        raise TraceError(path, None, f"lcs version {version} is not known; versions 1 to 8 are read")
    return RecordFormat(path=path, record=_lcs_record(version), offset=sizes[0])


def _lcs_record(version: int) -> Any:
    """Version 1 is oracleGeneral; 2 adds operation and tenant; 3 has 64-bit sizes and a ttl; 4 to 8 add features."""
    fields: list[tuple[str, str]] = [("second", "<u4"), ("page", "<u8")]
    fields.append(("size_bytes", "<u4" if version < 3 else "<i8"))
    if version > 1:
        fields.append(("operation_tenant", "<u4"))
    if version > 2:
        fields.append(("ttl_seconds", "<u4"))
    fields.append(("next_request", "<i8"))
    fields += [(f"feature_{j}", "<u4") for j in range(_LCS_FEATURES.get(version, 0))]
    return np.dtype(fields)


def _described_lcs(path: Path, head: bytes, header: int) -> RecordFormat:
    """The first layout of lcs: the header holds a format string and the numbers of the fields, from 1."""
    text_bytes = {1024: 240, 512: 120}.get(header, 240)
    text = head[8 : 8 + text_bytes].split(b"\0")[0].decode("ascii", "replace")
    codes = re.sub(r"[<=@]", "", text)
    id_field, size_field = head[8 + text_bytes], head[8 + text_bytes + 1]
    if not codes or any(code not in _FORMAT_TYPES for code in codes) or not 1 <= id_field <= len(codes):
        raise TraceError(path, None, f"the lcs header describes its records as {text!r}, id in field {id_field}")
    names = [f"field_{j}" for j in range(1, len(codes) + 1)]
    names[id_field - 1] = "page"
    if 1 <= size_field <= len(codes) and size_field != id_field:
        names[size_field - 1] = "size_bytes"
    record = np.dtype([(name, _FORMAT_TYPES[code]) for name, code in zip(names, codes, strict=True)])
    return RecordFormat(path=path, record=record, offset=header)


def read_records(
    path: StrPath, kind: str, *, options: ReadOptions | None = None, on_progress: Progress | None = None
) -> PageTrace:
    """Read the page ids of a binary file; sizes are ignored (unit pages)."""
    records = open_records(Path(path), kind)

    def ids() -> Iterator[U64]:
        for rows in records.chunks(on_progress):
            yield np.ascontiguousarray(rows["page"]).astype(np.uint64)

    trace = from_chunks(ids(), name=Path(path).name, spill=(options or ReadOptions()).spill)
    return trace.noting(zero_note(records.skipped))


def read_oracle(path: StrPath, *, spill: bool = False, on_progress: Progress | None = None) -> PageTrace:
    """Read libCacheSim's oracleGeneral binary format; sizes are ignored (unit pages), empty records skipped."""
    return read_records(path, "oracle", options=ReadOptions(spill=spill), on_progress=on_progress)
