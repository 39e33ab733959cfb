"""What XLA:TPU's memory-space assignment logs about a program, as data.

The log comes from ``TPU_VMODULE=memory_space_assignment=3,simulator=3,algorithm=5`` (``xla/compiler.py``). Lines are
matched by what they say, not by their place in XLA's source. Step numbers are XLA's logical times.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace

from mallocgame.errors import TraceError
from mallocgame.workloads.hlo.module import to_index
from mallocgame.workloads.xla.records import (
    OPERAND,
    POSITION,
    AllocationRow,
    BufferRow,
    Position,
    SimulatedRow,
    Slice,
    XlaLog,
    parse_position,
    parse_uses,
)

DONE = "Estimated elapsed time with async copies"  # the last line that a capture needs

_PREFIX = re.compile(r"^[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ ([\w.]+):\d+\] ?(.*)$", re.DOTALL)
_BUFFER_COLUMNS = "buffer_id,buffer_name,alt_mem_benefit,size,definition_time,use_times,use_names,is_scoped"
_INTERVAL_COLUMNS = "buffer_id,size,offset,start_time,end_time"
_NUMBER = r"(-?\d{1,20}(?:\.\d{1,20})?(?:[eE][-+]?\d{1,3})?)"  # finite: XLA's times and benefits are
_LARGEST = 2**50  # bytes, steps: sums over a program stay exact in int64


def parse_log(lines: Iterable[str], path: object = "log") -> XlaLog:
    """Parse a log.

    Raises:
        TraceError: a line that starts like a known one does not read on like it, the log does not reach the end of
            memory-space assignment, or its parts do not fit together.
    """
    reader = LogReader(path)
    for number, line in enumerate(lines, start=1):
        reader.read(number, line.rstrip("\n"))
    return reader.finish()


_OF_MAPPINGS = (
    "Flattened instruction sequence",
    "Debug allocation info",
    "Finding allocation for ",
    "Moving buffer to alternate memory in slices. ",
    "Sliced copy to alternate memory. ",
    "Repacking move. ",
    "Processing: ",
    DONE,
)


def parse_mapping_log(lines: Iterable[str], path: object = "log") -> XlaLog:
    """Parse the schedule, the allocations and the estimate only: what tells mappings of one program apart.

    Raises:
        TraceError: as ``parse_log``, of these parts.
    """
    reader = LogReader(path)
    for number, line in enumerate(lines, start=1):
        at = line.find("] ") + 2
        if reader.section or line.startswith(_OF_MAPPINGS, at) or not at:
            reader.read(number, line)
        elif line.startswith("memory_space_assignment_options::Options", at):  # the pass starts again
            reader.log = XlaLog(path=str(path))
        elif ": instruction: copy-start" in line or ": instruction: slice-start" in line:
            reader.read(number, line)
    if reader.log.error:
        raise TraceError(path, None, f"the compilation failed: {reader.log.error}")
    if reader.log.seconds_with_copies is None:
        raise TraceError(path, reader.number, f"ends before {DONE!r}: the log is cut short")
    return reader.log


class LogReader:
    """Line by line; ``log`` is what has been read since the last start of the pass."""

    def __init__(self, path: object) -> None:
        self.log = XlaLog(path=str(path))
        self.number = 0
        self.section = ""
        self.finding: tuple[Position | None, Position | None] = (None, None)
        self.moving: tuple[Slice, ...] = ()
        self.slices: dict[tuple[Position, int, int], tuple[Slice, ...]] = {}
        self.known: tuple[tuple[str, Callable[[str], None]], ...] = (
            ("Initial resource[", self._initial),
            ("    pos: ", self._accessed_position),
            ("    use: ", self._accessed_use),
            ("Finding allocation for ", self._finding),
            ("Definition benefit = ", self._benefit),
            ("Moving buffer to alternate memory in slices. ", self._moving),
            ("Sliced copy to alternate memory. ", self._sliced),
            ("Repacking move. ", self._repacked),
            ("Processing: ", self._allocation),
            ("Skip <", self._skip),
            ("Adding required assignment for output value = <", self._output),
            ("\tnumber of successful async conversion: ", self._conversions),
        )

    def read(self, number: int, line: str) -> None:
        self.number = number
        prefix = _PREFIX.match(line)
        if not prefix:
            if "FAILED_PRECONDITION" in line or "MSA strict override failed" in line or "XlaRuntimeError" in line:
                self.log.error = self.log.error or line.strip()[:500]
            return
        file, text = prefix[1], prefix[2]
        if file == "simulator.cc":
            self._simulated(text)
        elif file == "memory_space_assignment.cc":
            self._option_or_estimate(text)
        if file in ("algorithm.cc", "memory_space_assignment.cc"):
            self._algorithm(text)

    def _algorithm(self, text: str) -> None:
        for start, action in self.known:
            if text.startswith(start):
                self.section = ""
                action(text)
                return
        if text.startswith("Flattened instruction sequence"):
            self.section = "schedule"
        elif text.startswith("Debug buffer info"):
            self.section = "buffer columns"
        elif text.startswith("Debug allocation info"):
            self.section = "allocation columns"
        elif self.section == "schedule":
            self._scheduled(text)
        elif self.section.startswith("buffer"):
            self._buffer(text)
        elif self.section.startswith("allocation"):
            self._interval(text)

    def _option_or_estimate(self, text: str) -> None:
        if text.startswith("memory_space_assignment_options::Options"):
            self.log = XlaLog(path=self.log.path)
            self.section = "options"
        elif text.startswith("Estimated elapsed time without async copies"):
            self.log.seconds_without_copies = self._estimate(text)
        elif text.startswith(DONE):
            self.log.seconds_with_copies = self._estimate(text)
        elif self.section == "options":
            key, colon, value = text.partition(": ")
            if colon:
                self.log.options[key.strip()] = value.strip()

    def _estimate(self, text: str) -> float:
        match = self._match(rf"Estimated elapsed time with(?:out)? async copies \(sec\): {_NUMBER}", text)
        return self._seconds(match[1])

    def _integer(self, text: str) -> int:
        if len(text) > 20 or abs(int(text)) > _LARGEST:
            raise TraceError(self.log.path, self.number, f"the number {text[:40]} is out of range")
        return int(text)

    def _seconds(self, text: str) -> float:
        seconds = float(text)
        if not 0 <= seconds < 1e6:
            raise TraceError(self.log.path, self.number, f"{text} seconds are out of range")
        return seconds

    def _match(self, pattern: str, text: str) -> re.Match[str]:
        match = re.fullmatch(pattern, text)
        if not match:
            raise TraceError(
                self.log.path, self.number, f"does not read as this version of libtpu's log: {text[:100]!r}"
            )
        return match

    def _initial(self, text: str) -> None:
        match = self._match(rf"Initial resource\[(\d+)\] = {_NUMBER} \((.*)\)", text)
        self.log.home_seconds[self._integer(match[1])] = self._seconds(match[2])

    def _scheduled(self, text: str) -> None:
        match = re.fullmatch(r" (\d+): (\S+) (\S+)", text)
        if not match:
            self.section = ""
        elif self._integer(match[1]) != len(self.log.schedule):
            reason = f"expected step {len(self.log.schedule)} of the schedule, got {match[1]}"
            raise TraceError(self.log.path, self.number, reason)
        else:
            self.log.schedule.append((match[2], match[3]))

    def _accessed_position(self, text: str) -> None:
        match = self._match(rf"    pos: {POSITION}, accessed: (-?\d+) / (\d+)", text)
        self._accessed(Position(instruction=match[1], index=to_index(match[2] or "")), match[3], match[4])

    def _accessed_use(self, text: str) -> None:
        match = self._match(rf"    use: {OPERAND}, accessed: (-?\d+) / (\d+)", text)
        place = Position(instruction=match[1], operand=self._integer(match[2]), index=to_index(match[3] or ""))
        self._accessed(place, match[4], match[5])

    def _accessed(self, place: Position, accessed: str, size: str) -> None:
        if accessed == "-1":  # XLA does not know
            self.log.unknown_bytes[place] = self._integer(size)
        elif self._integer(accessed) < 0 or self.log.accessed_bytes.setdefault(
            place, self._integer(accessed)
        ) != self._integer(accessed):
            raise TraceError(
                self.log.path, self.number, f"{place} accesses {accessed} bytes, but earlier another number"
            )
        self.log.sizes_bytes[place] = self._integer(size)

    def _finding(self, text: str) -> None:
        match = re.fullmatch(r".* use = (.*?)\. Size = \d+, def pos = (.*)", text)
        self.finding = (parse_position(match[1]), parse_position(match[2])) if match else (None, None)

    def _benefit(self, text: str) -> None:
        match = self._match(rf"Definition benefit = {_NUMBER} use benefit = {_NUMBER}", text)
        for place, benefit in zip(self.finding, (match[2], match[1]), strict=True):
            if place is not None:
                self.log.benefit_seconds[place] = float(benefit)

    def _moving(self, text: str) -> None:
        match = re.search(r"Slices\(start_time, offset, size\) = \[(.*?)\]", text)
        rows = re.findall(r"\((-?\d+), (\d+), (\d+)\)", match[1]) if match else []
        self.moving = tuple(
            Slice(start_after=self._integer(start), offset_bytes=self._integer(offset), size_bytes=self._integer(size))
            for start, offset, size in rows
        )

    def _sliced(self, text: str) -> None:
        match = re.search(r"= \[(.*)\]", text)
        rows = re.findall(r"\((-?\d+), (\d+), (\d+), [^)]*\)", match[1]) if match else []
        use, starts = self.finding[0], sorted(self._integer(row[0]) for row in rows)
        if not rows or use is None or starts != sorted(part.start_after for part in self.moving):
            raise TraceError(self.log.path, self.number, f"slices that do not match the move before: {text[:100]!r}")
        self.slices[use, starts[0], self._integer(rows[0][1])] = self.moving

    def _repacked(self, text: str) -> None:
        moved = re.search(r"slice_offsets: \[(.*?)\]", text)
        if not moved:
            return
        places = {self._integer(old): self._integer(new) for old, new in re.findall(r"(\d+) -> (\d+)", moved[1])}
        times = re.search(
            r"first_slice_copy_start_after_time: (-?\d+), last_slice_copy_done_before_time: (-?\d+)", text
        )
        listed = re.search(r"uses: (.*?)(?:, existing|, sync_mem_op|$)", text)
        for use in parse_uses(listed[1]) if listed and times else ():
            key = (use, self._integer(times[1]), self._integer(times[2])) if times else None
            parts = self.slices.get(key, ()) if key else ()
            if key and {part.offset_bytes for part in parts} == places.keys():
                self.slices[key] = _moved(parts, places)

    def _skip(self, text: str) -> None:
        match = re.fullmatch(r"Skip <\d+ (.*)> because it is not allowed in the alternate memory\.", text)
        if match:
            self.log.skipped.add(match[1].removesuffix(" (phi)"))

    def _output(self, text: str) -> None:
        match = self._match(r"Adding required assignment for output value = <\d+ (.*)> time = \d+ space = def", text)
        self.log.output_values.add(match[1].removesuffix(" (phi)"))

    def _conversions(self, text: str) -> None:
        self.log.async_conversions = self._integer(
            self._match(r"\tnumber of successful async conversion: (\d+)", text)[1]
        )

    def _buffer(self, text: str) -> None:
        if self.section == "buffer columns" and "," not in text:  # an empty table
            self.section = ""
            return
        if self.section == "buffer columns":
            if text != _BUFFER_COLUMNS:
                raise TraceError(self.log.path, self.number, f"unknown columns {text!r}, expected {_BUFFER_COLUMNS!r}")
            self.section = "buffers"
            return
        match = re.fullmatch(r'(\d+),"<\d+ (.*)>",[^,]*,(\d+),-?\d+,"[^"]*","([^"]*)",([01])', text)
        if not match:
            self.section = ""
            return
        uses = [parse_position(word) for word in match[4].split(";") if word]
        places = tuple(use for use in uses if use is not None)
        if len(places) != len(uses):
            raise TraceError(self.log.path, self.number, f"uses that do not parse: {match[4][:100]!r}")
        name = match[2].removesuffix(" (phi)")
        row = BufferRow(
            line=self.number, buffer=self._integer(match[1]), name=name, size_bytes=self._integer(match[3]), uses=places
        )
        self.log.buffers.append(row)

    def _interval(self, text: str) -> None:
        if self.section == "allocation columns" and "," not in text:  # an empty table
            self.section = ""
            return
        if self.section == "allocation columns":
            if text != _INTERVAL_COLUMNS:
                reason = f"unknown columns {text!r}, expected {_INTERVAL_COLUMNS!r}"
                raise TraceError(self.log.path, self.number, reason)
            self.section = "allocations"
            return
        match = re.fullmatch(r"(\d+),(\d+),(\d+),(\d+),(\d+)", text)
        if match:
            self.log.intervals.add((self._integer(match[3]), self._integer(match[4]), self._integer(match[5])))
        else:
            self.section = ""

    def _allocation(self, text: str) -> None:
        own = text.partition(", from ")[0].partition(", for original")[0]
        self.log.charged_fast.update(parse_uses(own.partition("uses: ")[2]))
        pinned = re.match(r"Processing: PinnedAllocation in alt .* defined at (.*?), start_time", own)
        place = parse_position(pinned[1]) if pinned else None
        if place is not None:
            self.log.charged_fast.add(place)
        if " in def" in text.split(",")[0] and not text.startswith("Processing: Copy Allocation"):
            return
        if text.startswith(("Processing: Parent Allocation", "Processing: MirroredAllocation")):
            view = re.search(r"in alt \(off: (\d+).*?start_time:(-?\d+), end_time:(-?\d+)", own)
            if view:
                self.log.mirrored.add((int(view[1]), int(view[2]), int(view[3])))
            return
        head, _, source = text.removeprefix("Processing: ").partition(", from ")
        where = re.search(r" defined at (.*?), start_time", source or head)
        defined_at = parse_position(where[1]) if where else None
        if defined_at is None:
            mirrored = re.search(r" mirrored at (.*?), originally", source)
            defined_at = parse_position(mirrored[1]) if mirrored else None
        replaced = re.search(r"sync_mem_op: (?!none)([^\s,]+)", text)
        if replaced:
            defined_at = Position(instruction=replaced[1])
        times = re.search(r"start_time:(-?\d+), end_time:(-?\d+)", head)
        kind = re.match(r"(PinnedAllocation|Copy Allocation|Sliced Copy Allocation) in (alt|def)", head)
        if defined_at is None or times is None or kind is None:
            raise TraceError(self.log.path, self.number, f"an allocation of an unknown kind: {text[:100]!r}")
        offset = re.search(r"\(off: (-?\d+)", head)
        size = re.search(r"\(off: -?\d+, size: (\d+)\)", head)
        copy = re.search(r"copy_start_after_time: (-?\d+), (?:last_slice_)?copy_done_before_time: (-?\d+)", head)
        if (kind[1] != "PinnedAllocation") != bool(copy) or (kind[2] == "alt") != bool(offset):
            raise TraceError(self.log.path, self.number, f"an allocation without its times or offset: {text[:100]!r}")
        listed = re.search(r"uses: (.*?)(?:, existing|, sync_mem_op|$)", head)
        uses = tuple(parse_uses(listed[1])) if listed else ()
        source_offset = re.search(r"^(?:Sliced )?\w+ ?\w* in alt \(off: (\d+)", source)
        row = AllocationRow(
            line=self.number,
            defined_at=defined_at,
            offset_bytes=self._integer(offset[1]) if offset else None,
            size_bytes=self._integer(size[1]) if size else None,
            start_time=self._integer(times[1]),
            end_time=self._integer(times[2]),
            is_copy=bool(copy),
            start_after=self._integer(copy[1]) if copy else -1,
            done_before=self._integer(copy[2]) if copy else -1,
            slices=self._slices_of(uses, copy, offset) if copy and kind[1].startswith("Sliced") else (),
            source_offset_bytes=self._integer(source_offset[1]) if source_offset else None,
            replaces=replaced[1] if replaced and replaced[0] in head else "",
            cross_program=source.startswith("PinnedAllocation in def (off: -1"),
            uses=uses,
        )
        self.log.allocations.append(row)

    def _slices_of(
        self, uses: tuple[Position, ...], copy: re.Match[str], offset: re.Match[str] | None
    ) -> tuple[Slice, ...]:
        for use in uses:
            parts = self.slices.get((use, self._integer(copy[1]), self._integer(copy[2])))
            if parts:
                first = min(part.offset_bytes for part in parts)
                if offset and first != self._integer(offset[1]):
                    raise TraceError(self.log.path, self.number, f"slices from offset {first} on, expected {offset[1]}")
                return parts
        raise TraceError(self.log.path, self.number, "a sliced copy whose slices were not logged before")

    def _simulated(self, text: str) -> None:
        match = re.match(rf"\d+: instruction: (\S+)(?: \(xprogram prefetch\))?; elapsed: {_NUMBER}; ", text)
        trips = re.search(r"trip count: (\d+)", text)
        if match and trips:
            row = SimulatedRow(
                name=match[1], elapsed_seconds=self._seconds(match[2]), trip_count=self._integer(trips[1])
            )
            self.log.simulated.append(row)
        elif ": instruction: " in text:
            raise TraceError(self.log.path, self.number, f"does not read as a line of XLA's simulator: {text[:100]!r}")

    def finish(self) -> XlaLog:
        log = self.log
        if log.error:
            raise TraceError(log.path, None, f"the compilation failed: {log.error}")
        if not log.options:
            reason = "no memory-space-assignment section: not a log of XLA:TPU at the needed verbosity"
            raise TraceError(log.path, self.number, reason)
        if log.seconds_with_copies is None:
            raise TraceError(log.path, self.number, f"ends before {DONE!r}: the log is cut short")
        if not log.schedule or sorted(log.home_seconds) != list(range(len(log.schedule))):
            reason = f"{len(log.schedule)} scheduled steps but elapsed times of {len(log.home_seconds)}"
            raise TraceError(log.path, self.number, reason)
        if not log.buffers and not log.allocations:
            reason = (
                "nothing to plan: the compiler lets no array of this program live in fast memory (scalars do not count"
            )
            raise TraceError(log.path, None, f"{reason}, nor what it keeps in HBM)")
        if not log.simulated:
            raise TraceError(log.path, self.number, "no simulator lines: TPU_VMODULE needs simulator=3")
        return log


def _moved(parts: tuple[Slice, ...], places: dict[int, int]) -> tuple[Slice, ...]:
    """Return slices at their new places. Which slice is copied when may change too, so sizes follow from the places."""
    offsets = sorted(places.values())
    ends = [*offsets[1:], offsets[0] + sum(part.size_bytes for part in parts)]
    sizes = {offset: end - offset for offset, end in zip(offsets, ends, strict=True)}
    where = [places[part.offset_bytes] for part in parts]
    return tuple(
        replace(part, offset_bytes=offset, size_bytes=sizes[offset]) for part, offset in zip(parts, where, strict=True)
    )
