"""Static packing problems and their answers: value types, MiniMalloc's CSV, and a validator that shares no solver code.

A buffer is a rectangle of time × address whose time span is given; a packing gives it an address. The same types serve
``mallocgame pack`` and the solvers that place the residencies of a mapping.
"""

import csv
import heapq
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mallocgame import files
from mallocgame.errors import InputError, TraceError

MAX_BYTES = 2**53  # sizes, offsets and capacities above this are taken for mistakes; sums stay far inside int64
_TITLES = {
    "id": "id",
    "buffer": "id",
    "buffer_id": "id",
    "lower": "lower",
    "start": "lower",
    "begin": "lower",
    "upper": "upper",
    "end": "end",
    "size": "size",
    "alignment": "alignment",
    "offset": "offset",
    "hint": "hint",
    "gaps": "gaps",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """One allocation, live at step t iff ``lower <= t < upper``."""

    name: str
    lower: int
    upper: int  # exclusive
    size_bytes: int  # > 0
    alignment_bytes: int = 1
    fixed_offset: int | None = None  # already placed there: the packing must keep it

    def __post_init__(self) -> None:
        if self.lower >= self.upper:
            raise InputError(f"buffer {self.name!r}: need lower < upper, got {self.lower} and {self.upper}")
        if max(abs(self.lower), abs(self.upper)) > MAX_BYTES:
            raise InputError(f"buffer {self.name!r}: lower and upper must lie within ±2**53")
        if not 0 < self.size_bytes <= MAX_BYTES:
            raise InputError(f"buffer {self.name!r}: need 0 < size <= 2**53 bytes, got {self.size_bytes}")
        if not 0 < self.alignment_bytes <= MAX_BYTES:
            raise InputError(f"buffer {self.name!r}: need 0 < alignment <= 2**53, got {self.alignment_bytes}")
        if self.fixed_offset is not None:
            if not 0 <= self.fixed_offset <= MAX_BYTES:
                raise InputError(f"buffer {self.name!r}: need 0 <= offset <= 2**53, got {self.fixed_offset}")
            if self.fixed_offset % self.alignment_bytes:
                raise InputError(
                    f"buffer {self.name!r}: offset {self.fixed_offset} is not a multiple of its alignment "
                    f"{self.alignment_bytes}"
                )


def packing_height(buffers: Sequence[Buffer], offsets: Sequence[int]) -> int:
    """Return the greatest end address in bytes, 0 for no buffers.

    >>> packing_height([Buffer(name="a", lower=0, upper=2, size_bytes=4)], [3])
    7
    """
    return max((offset + b.size_bytes for b, offset in zip(buffers, offsets, strict=True)), default=0)


def max_live_bytes(buffers: Iterable[Buffer]) -> int:
    """Return the most bytes live at once: no packing is lower.

    >>> a = Buffer(name="a", lower=0, upper=2, size_bytes=4)
    >>> max_live_bytes([a, Buffer(name="b", lower=2, upper=3, size_bytes=5)])
    5
    """
    changes: dict[int, int] = {}
    for b in buffers:
        changes[b.lower] = changes.get(b.lower, 0) + b.size_bytes
        changes[b.upper] = changes.get(b.upper, 0) - b.size_bytes
    live = peak = 0
    for step in sorted(changes):
        live += changes[step]
        peak = max(peak, live)
    return peak


def validate_packing(
    buffers: Sequence[Buffer], offsets: Sequence[int], capacity_bytes: int | None = None, *, limit: int | None = None
) -> list[str]:
    """Return every violation of a packing, one line each; an empty list means valid.

    Checked: one offset for each buffer, offsets at least 0 and aligned, fixed offsets kept, the capacity, and that no
    two buffers share a byte at any step. It takes O((n + violations) log n) by a sweep over address and time.

    Args:
        buffers: the problem.
        offsets: bytes, one for each buffer.
        capacity_bytes: None for no limit.
        limit: stop after so many violations; None lists all.

    >>> a = Buffer(name="a", lower=0, upper=2, size_bytes=4)
    >>> b = Buffer(name="b", lower=1, upper=3, size_bytes=4)
    >>> validate_packing([a, b], [0, 2], 5)
    ["buffer 'b': ends at byte 6, above the capacity of 5", \
"buffers 'a' and 'b' share bytes [2, 4) during steps [1, 2)"]
    """
    if len(offsets) != len(buffers):
        return [f"{len(buffers)} buffers but {len(offsets)} offsets"]
    found: list[str] = []
    for b, offset in zip(buffers, offsets, strict=True):
        if offset < 0:
            found.append(f"buffer {b.name!r}: offset {offset} is below 0")
        if offset % b.alignment_bytes:
            found.append(f"buffer {b.name!r}: offset {offset} is not a multiple of its alignment {b.alignment_bytes}")
        if b.fixed_offset is not None and offset != b.fixed_offset:
            found.append(f"buffer {b.name!r}: offset {offset}, but it is fixed at {b.fixed_offset}")
        if capacity_bytes is not None and offset + b.size_bytes > capacity_bytes:
            found.append(
                f"buffer {b.name!r}: ends at byte {offset + b.size_bytes}, above the capacity of {capacity_bytes}"
            )
    for first, second in _overlaps(buffers, offsets):
        if limit is not None and len(found) >= limit:
            break
        a, b = buffers[first], buffers[second]
        low, high = (
            max(offsets[first], offsets[second]),
            min(offsets[first] + a.size_bytes, offsets[second] + b.size_bytes),
        )
        found.append(
            f"buffers {a.name!r} and {b.name!r} share bytes [{low}, {high}) "
            f"during steps [{max(a.lower, b.lower)}, {min(a.upper, b.upper)})"
        )
    return found if limit is None else found[:limit]


def _overlaps(buffers: Sequence[Buffer], offsets: Sequence[int]) -> Iterable[tuple[int, int]]:
    """Yield each pair of buffers that share a byte at a step, by a sweep over time.

    The live buffers are kept sorted by offset. In a valid packing the live ones are disjoint, so it is enough to look
    at neighbours; once an overlap has been met the sweep compares with every live buffer that could reach.
    """
    import bisect

    order = sorted(range(len(buffers)), key=lambda i: buffers[i].lower)
    live: list[tuple[int, int]] = []  # (offset, index), sorted
    ends: list[tuple[int, int]] = []
    longest = max((b.size_bytes for b in buffers), default=0)
    clean = True
    for i in order:
        b = buffers[i]
        while ends and ends[0][0] <= b.lower:
            _, gone = heapq.heappop(ends)
            del live[bisect.bisect_left(live, (offsets[gone], gone))]
        low, high = offsets[i], offsets[i] + b.size_bytes
        place = bisect.bisect_left(live, (low, -1))
        k = place
        while k < len(live) and live[k][0] < high:
            yield live[k][1], i
            clean = False
            k += 1
        k = place - 1
        while k >= 0 and live[k][0] + longest > low:
            other = live[k][1]
            if live[k][0] + buffers[other].size_bytes > low:
                yield other, i
                clean = False
            elif clean:
                break  # disjoint so far: whatever lies lower ends lower still
            k -= 1
        bisect.insort(live, (low, i))
        heapq.heappush(ends, (b.upper, i))


def read_buffers(path: str | os.PathLike[str]) -> list[Buffer]:
    """Read MiniMalloc's CSV: a header with ``id, lower, upper, size`` and optionally ``alignment``, ``offset``.

    Columns may stand in any order. ``buffer`` and ``buffer_id`` mean ``id``; ``start`` and ``begin`` mean ``lower``;
    ``end`` is the last live step, so ``upper`` is ``end + 1``. A negative or empty ``offset`` means "not fixed".
    ``hint`` is checked and not used. Blank lines are skipped (MiniMalloc stops at one without a word).

    Raises:
        TraceError: with file and line, on anything that is not such a table.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise TraceError(path, None, f"cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise TraceError(path, None, f"is not UTF-8 text (byte {error.start}); expected MiniMalloc's CSV") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: list[str] | None = None
    buffers: list[Buffer] = []
    lines: dict[str, int] = {}
    try:
        for row in reader:
            line = reader.line_num
            if not any(field.strip() for field in row):
                continue
            if columns is None:
                columns = _header(path, line, row)
                continue
            buffer = _row(path, line, columns, row)
            if buffer.name in lines:
                raise TraceError(path, line, f"id {buffer.name!r} was already used on line {lines[buffer.name]}")
            lines[buffer.name] = line
            buffers.append(buffer)
    except csv.Error as error:
        raise TraceError(path, reader.line_num, f"is not CSV: {error}") from None
    if columns is None:
        raise TraceError(path, None, "is empty; expected a header with id, lower, upper, size")
    return buffers


def _header(path: object, line: int, row: Sequence[str]) -> list[str]:
    columns = []
    for field in row:
        title = _TITLES.get(field.strip().lower())
        if title is None:
            known = ", ".join(dict.fromkeys(_TITLES))
            raise TraceError(path, line, f"unknown column {field.strip()[:40]!r}; known columns: {known}")
        columns.append(title)
    repeated = {title for title in columns if columns.count(title) > 1}
    if {"upper", "end"} <= set(columns):
        repeated.add("upper")
    if repeated:
        raise TraceError(path, line, f"column {min(repeated)!r} appears twice")
    missing = {"id", "lower", "size"} - set(columns)
    if not {"upper", "end"} & set(columns):
        missing.add("upper")
    if missing:
        raise TraceError(path, line, f"missing column {', '.join(sorted(missing))}; need id, lower, upper, size")
    return columns


def _row(path: object, line: int, columns: Sequence[str], row: Sequence[str]) -> Buffer:
    if len(row) != len(columns):
        raise TraceError(path, line, f"{len(row)} fields, but the header has {len(columns)} columns")
    fields = {title: field.strip() for title, field in zip(columns, row, strict=True)}
    if fields.get("gaps"):
        raise TraceError(path, line, "gaps in a lifetime are not supported; give each live span a row of its own")
    values = {
        title: _integer(path, line, title, text)
        for title, text in fields.items()
        if title not in ("id", "gaps") and not (text == "" and title in ("offset", "hint", "alignment"))
    }
    offset = values.get("offset", -1)
    try:
        return Buffer(
            name=fields["id"],
            lower=values["lower"],
            upper=values["upper"] if "upper" in values else values["end"] + 1,
            size_bytes=values["size"],
            alignment_bytes=values.get("alignment", 1),
            fixed_offset=None if offset < 0 else offset,
        )
    except InputError as error:
        raise TraceError(path, line, str(error)) from None


def _integer(path: object, line: int, title: str, text: str) -> int:
    digits = text[1:] if text[:1] in ("-", "+") else text
    if not (digits.isascii() and digits.isdigit()):
        raise TraceError(path, line, f"{title} must be a whole number, got {text[:40]!r}")
    if len(digits) > 18:
        raise TraceError(path, line, f"{title} is too large: {text[:40]}")
    return int(text)


def write_packing(path: str | os.PathLike[str], buffers: Sequence[Buffer], offsets: Sequence[int]) -> None:
    """Write buffers and offsets as MiniMalloc's CSV, atomically; ``alignment`` only where one is above 1."""
    aligned = any(b.alignment_bytes != 1 for b in buffers)
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["id", "lower", "upper", "size", *(["alignment"] if aligned else []), "offset"])
    for b, offset in zip(buffers, offsets, strict=True):
        row: list[object] = [b.name, b.lower, b.upper, b.size_bytes]
        table.writerow([*row, *([b.alignment_bytes] if aligned else []), int(offset)])
    files.write_text(path, out.getvalue())
