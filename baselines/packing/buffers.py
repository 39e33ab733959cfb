"""MiniMalloc's CSV, and a validator of packings that shares no solver code."""

import bisect
import csv
import heapq
import io
import itertools
import re
from collections.abc import Callable, Iterator, Sequence

from mallocgame import files
from mallocgame.baselines.packing.types import (
    MAX_BYTES,
    Buffer,
    Gap,
    Piece,
    conflict_pairs,
    max_live_bytes,
    packing_height,
)
from mallocgame.errors import InputError, TraceError
from mallocgame.text import cell, from_cell

__all__ = [
    "MAX_BYTES",
    "Buffer",
    "Gap",
    "max_live_bytes",
    "packing_height",
    "read_buffers",
    "validate_packing",
    "write_packing",
]

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
    "conflicts": "conflicts",
}
_GAP = re.compile(r"(-?\d{1,18})-(-?\d{1,18})(?:@(\d{1,18}):(\d{1,18}))?", re.ASCII)


def validate_packing(
    buffers: Sequence[Buffer], offsets: Sequence[int], capacity_bytes: int | None = None, *, limit: int | None = None
) -> list[str]:
    """Return every violation of a packing, one line each; an empty list means valid.

    Checked: one offset for each buffer, offsets at least 0 and aligned, fixed offsets kept, the capacity, that no two
    buffers use a byte at the same step (gaps and windows heeded), and that no two of a conflict list share one. It
    takes O((n + violations) log n) by a sweep over address and time.

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
        if capacity_bytes is not None and b.needs_memory and offset + b.size_bytes > capacity_bytes:
            found.append(
                f"buffer {b.name!r}: ends at byte {offset + b.size_bytes}, above the capacity of {capacity_bytes}"
            )
    for first, second, line in itertools.chain(_overlaps(buffers, offsets), _listed(buffers, offsets)):
        if limit is not None and len(found) >= limit:
            break
        found.append(f"buffers {buffers[first].name!r} and {buffers[second].name!r} share bytes {line}")
    return found if limit is None else found[:limit]


def _listed(buffers: Sequence[Buffer], offsets: Sequence[int]) -> Iterator[tuple[int, int, str]]:
    """Yield the pairs of conflict lists that share a byte, and which."""
    for i, j in conflict_pairs(buffers):
        low = max(offsets[i], offsets[j])
        high = min(offsets[i] + buffers[i].size_bytes, offsets[j] + buffers[j].size_bytes)
        if low < high:
            yield i, j, f"[{low}, {high}) and are listed as in conflict"


def _overlaps(buffers: Sequence[Buffer], offsets: Sequence[int]) -> Iterator[tuple[int, int, str]]:
    """Yield each pair of buffers that use a byte at the same step, with the bytes and the steps."""
    owners = [i for i, b in enumerate(buffers) for _ in b.pieces]
    boxes = [piece for b in buffers for piece in b.pieces]
    starts = [offsets[i] + piece.bottom for i, piece in zip(owners, boxes, strict=True)]
    for first, second in _overlapping_boxes(boxes, starts):
        a, b = boxes[first], boxes[second]
        low = max(starts[first], starts[second])
        high = min(starts[first] + a.top - a.bottom, starts[second] + b.top - b.bottom)
        steps = f"[{max(a.lower, b.lower)}, {min(a.upper, b.upper)})"
        yield owners[first], owners[second], f"[{low}, {high}) during steps {steps}"


def _overlapping_boxes(boxes: Sequence[Piece], starts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield each pair of boxes that share a byte at a step, by a sweep over time; box i begins at byte starts[i].

    The live boxes are kept sorted by address. In a valid packing the live ones are disjoint, so it is enough to look
    at neighbours; once an overlap has been met the sweep compares with every live box that could reach.
    """
    order = sorted(range(len(boxes)), key=lambda i: boxes[i].lower)
    live: list[tuple[int, int]] = []  # (address, index), sorted
    ends: list[tuple[int, int]] = []
    sizes = [box.top - box.bottom for box in boxes]
    longest = max(sizes, default=0)
    clean = True
    for i in order:
        box = boxes[i]
        while ends and ends[0][0] <= box.lower:
            _, gone = heapq.heappop(ends)
            del live[bisect.bisect_left(live, (starts[gone], gone))]
        low, high = starts[i], starts[i] + sizes[i]
        place = bisect.bisect_left(live, (low, -1))
        k = place
        while k < len(live) and live[k][0] < high:
            yield live[k][1], i
            clean = False
            k += 1
        k = place - 1
        while k >= 0 and live[k][0] + longest > low:
            other = live[k][1]
            if live[k][0] + sizes[other] > low:
                yield other, i
                clean = False
            elif clean:
                break  # disjoint so far: whatever lies lower ends lower still
            k -= 1
        bisect.insort(live, (low, i))
        heapq.heappush(ends, (box.upper, i))


def read_buffers(path: files.StrPath) -> list[Buffer]:
    """Read MiniMalloc's CSV: ``id, lower, upper, size``, optionally ``alignment``, ``offset``, ``gaps``, ``conflicts``.

    Columns may stand in any order, with commas, semicolons or tabs between; without ``id`` rows are numbered from 0.
    ``buffer`` and ``buffer_id`` mean ``id``; ``start`` and ``begin`` mean ``lower``;
    ``end`` is the last live step, so ``upper`` is ``end + 1``. A negative or empty ``offset`` means "not fixed".
    ``gaps`` are ``LOWER-UPPER`` or ``LOWER-UPPER@FIRST:LAST``, separated by spaces: the steps in which the buffer holds
    nothing, or only the bytes [FIRST, LAST) above its offset (with ``end``, the last step of the gap in place of
    UPPER). ``conflicts`` are ids separated by spaces or semicolons, of buffers that are live with this one whatever
    the lifetimes say; a table with it may go without ``lower`` and ``upper``. ``hint`` is checked and not used. Blank
    lines are skipped (MiniMalloc stops at one without a word).

    Raises:
        TraceError: with file and line, on anything that is not such a table.
    """
    text = files.read_text(path)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=_delimiter(text))
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
            buffer = _row(path, line, columns, row, len(buffers))
            if buffer.name in lines:
                raise TraceError(path, line, f"id {buffer.name!r} was already used on line {lines[buffer.name]}")
            lines[buffer.name] = line
            buffers.append(buffer)
    except csv.Error as error:
        raise TraceError(path, reader.line_num, f"is not CSV: {error}") from None
    if columns is None:
        raise TraceError(path, None, "is empty; expected a header with id, lower, upper, size")
    for buffer in buffers:
        for name in buffer.conflicts:
            if name not in lines or name == buffer.name:
                reason = f"{buffer.name!r} conflicts with {name[:40]!r}, which is no other buffer of the table"
                raise TraceError(path, lines[buffer.name], reason)
    return buffers


def _delimiter(text: str) -> str:
    """Return what stands between the columns of the header."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    return next((mark for mark in ",;\t" if mark in header), ",")


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
    missing = {"lower", "size"} - set(columns)
    if not {"upper", "end"} & set(columns):
        missing.add("upper")
    if "conflicts" in columns and {"lower", "upper"} <= missing:
        missing -= {"lower", "upper"}  # the list says it all
    if missing:
        raise TraceError(path, line, f"missing column {', '.join(sorted(missing))}; need lower, upper, size")
    return columns


def _row(path: object, line: int, columns: Sequence[str], row: Sequence[str], number: int) -> Buffer:
    if len(row) != len(columns):
        raise TraceError(path, line, f"{len(row)} fields, but the header has {len(columns)} columns")
    fields = {title: field.strip() for title, field in zip(columns, row, strict=True)}
    fields.setdefault("id", str(number))
    if not fields["id"].isprintable():
        raise TraceError(path, line, f"id {fields['id'][:40]!r} holds characters that cannot be printed")
    values = {
        title: _integer(path, line, title, text)
        for title, text in fields.items()
        if title not in ("id", "gaps", "conflicts") and not (text == "" and title in ("offset", "hint", "alignment"))
    }
    offset = values.get("offset", -1)
    lower = values.get("lower", number)  # without lifetimes each is live at a step of its own
    try:
        return Buffer(
            name=from_cell(fields["id"]),
            lower=lower,
            upper=values["upper"] if "upper" in values else values.get("end", lower) + 1,
            size_bytes=values["size"],
            alignment_bytes=values.get("alignment", 1),
            fixed_offset=None if offset < 0 else offset,
            gaps=_gaps(path, line, fields.get("gaps", ""), 1 if "end" in columns else 0),
            conflicts=tuple(from_cell(name) for name in _listed_names(fields.get("conflicts", ""))),
        )
    except InputError as error:
        raise (error if isinstance(error, TraceError) else TraceError(path, line, str(error))) from None


def _gaps(path: object, line: int, text: str, extra: int) -> tuple[Gap, ...]:
    found = []
    for word in text.split():
        match = _GAP.fullmatch(word)
        if not match:
            reason = f"gap {word[:40]!r} does not read as LOWER-UPPER or LOWER-UPPER@FIRST:LAST"
            raise TraceError(path, line, reason)
        window = (int(match[3]), int(match[4])) if match[3] else (0, 0)
        found.append(Gap(lower=int(match[1]), upper=int(match[2]) + extra, window=window))
    return tuple(sorted(found, key=lambda gap: gap.lower))


def _listed_names(text: str) -> list[str]:
    return [name for part in text.split(";") if (name := part.strip())] if ";" in text else text.split()


def _integer(path: object, line: int, title: str, text: str) -> int:
    digits = text[1:] if text[:1] in ("-", "+") else text
    if not (digits.isascii() and digits.isdigit()):
        raise TraceError(path, line, f"{title} must be a whole number, got {text[:40]!r}")
    if len(digits) > 18:
        raise TraceError(path, line, f"{title} is too large: {text[:40]}")
    return int(text)


def write_packing(path: files.StrPath, buffers: Sequence[Buffer], offsets: Sequence[int]) -> None:
    """Write buffers and offsets as MiniMalloc's CSV, atomically; other columns only where a buffer needs them.

    A name that a spreadsheet would run as a formula gets an apostrophe before it, which ``read_buffers`` takes off.

    Raises:
        TraceError: the file cannot be written.
    """
    columns: dict[str, Callable[[Buffer], object]] = {
        "id": lambda b: cell(b.name),
        "lower": lambda b: b.lower,
        "upper": lambda b: b.upper,
        "size": lambda b: b.size_bytes,
    }
    if any(b.alignment_bytes != 1 for b in buffers):
        columns["alignment"] = lambda b: b.alignment_bytes
    if any(b.gaps for b in buffers):
        columns["gaps"] = lambda b: " ".join(map(_gap_text, b.gaps))
    if any(b.conflicts for b in buffers):
        columns["conflicts"] = lambda b: "".join(f"{cell(name)};" for name in b.conflicts)
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow([*columns, "offset"])
    for b, offset in zip(buffers, offsets, strict=True):
        table.writerow([*(text(b) for text in columns.values()), int(offset)])
    files.write_text(path, out.getvalue())


def _gap_text(gap: Gap) -> str:
    window = f"@{gap.window[0]}:{gap.window[1]}" if gap.window[1] > gap.window[0] else ""
    return f"{gap.lower}-{gap.upper}{window}"
