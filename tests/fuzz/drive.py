"""Run readers on damaged files and tell what is not one clean line, or was accepted and should not have been."""

import os
import random
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from mallocgame.errors import InputError
from tests.fuzz.mutate import mutate
from tests.fuzz.oracle import misread
from tests.fuzz.readers import Reader

HANG_SECONDS = 2.0  # of this process's own time: on a busy machine every reader is slow
MEMORY = Path("/dev/shm")  # where there is such a folder: on a disk, removing a folder takes longer than most readers
LONGEST_LINE = 2100


class Hang(BaseException):
    """A reader took longer than ``HANG_SECONDS``."""


@dataclass
class Report:
    """What happened to one reader; ``faults`` maps a signature to an input and its traceback.

    Seconds are the process's own.
    """

    name: str
    seconds: float = 0.0
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    slowest_seconds: float = 0.0
    faults: dict[str, tuple[bytes, str]] = field(default_factory=dict)


def verdict(reader: Reader, path: Path, limit: float = HANG_SECONDS) -> tuple[str, str]:
    """Return ("accepted" | "refused" | a fault's signature, detail) of reading ``path``."""
    try:
        with _time_limit(limit), warnings.catch_warnings():
            warnings.simplefilter("error")
            found = reader.read(path)
    except InputError as error:
        text = str(error)
        if not text.isprintable() or len(text) > LONGEST_LINE:
            return "message is not one printable line", ascii(text[:500])
        if text.count(str(path)) > 1:
            return "message names its file twice", text
        return "refused", text
    except Hang:
        return f"hang of more than {limit:g} s at {_place(traceback.format_exc())}", traceback.format_exc()
    except Exception as error:
        return f"{type(error).__name__} at {_place(traceback.format_exc())}", traceback.format_exc()
    try:
        wrong = misread(reader, path.read_bytes(), found, path.parent)
    except Exception:  # what it accepted cannot be written, or not be read again
        wrong = traceback.format_exc()
    return (f"misread: {wrong.strip().splitlines()[-1]}", wrong) if wrong else ("accepted", "")


def fuzz(reader: Reader, *, seed: int, seconds: float, most: int = 1 << 40) -> Report:
    """Read damaged files until time is up or ``most`` have been read; the same seed makes the same files."""
    report = Report(reader.name)
    seeds = reader.seeds()
    rng = random.Random(f"{seed} {reader.name}")
    with _folder() as folder:
        path = folder / f"x{reader.suffix}"
        for data in sorted(set(seeds)):
            path.write_bytes(data)
            found, detail = verdict(reader, path, 30 * HANG_SECONDS)  # compiles kernels too
            assert found == "accepted", f"{reader.name}: a whole file is not accepted: {found}: {detail}"
        begun = time.process_time()
        while time.process_time() - begun < seconds and report.inputs < most:
            data = mutate(rng.choice(seeds), seeds, rng)
            path.write_bytes(data)
            before = time.process_time()
            found, detail = verdict(reader, path)
            report.slowest_seconds = max(report.slowest_seconds, time.process_time() - before)
            report.inputs += 1
            report.accepted += found == "accepted"
            report.refused += found == "refused"
            if found not in ("accepted", "refused"):
                report.faults.setdefault(found, (data, detail))
        report.seconds = time.process_time() - begun
    return report


@contextmanager
def _folder() -> Iterator[Path]:
    """Yield a folder in memory; what readers make temporarily lies in it, too."""
    before, place = tempfile.tempdir, MEMORY if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="mallocgame-fuzz-", dir=place) as folder:
        tempfile.tempdir = folder
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = before


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise ``Hang`` after so many seconds of this process, or, where it waits, thirty times as many of the clock's.

    pytest-timeout's alarm stays as it is where there is one.
    """

    def ring(number: int, frame: FrameType | None) -> None:
        raise Hang

    timers = [(signal.SIGPROF, signal.ITIMER_PROF, seconds)]
    if signal.getitimer(signal.ITIMER_REAL)[0] == 0:
        timers.append((signal.SIGALRM, signal.ITIMER_REAL, 30 * seconds))
    before = [signal.signal(number, ring) for number, _, _ in timers]
    try:
        for _, timer, length in timers:
            signal.setitimer(timer, length)
        yield
    finally:
        for (number, timer, _), old in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, old)


def _place(trace: str) -> str:
    """Return the innermost line of ours in a traceback."""
    lines = [line.strip() for line in trace.splitlines() if line.strip().startswith("File ")]
    ours = [line for line in lines if "site-packages" not in line and "/lib/python" not in line]
    return (ours or lines or ["nowhere"])[-1].replace('File "', "").replace('"', "")
