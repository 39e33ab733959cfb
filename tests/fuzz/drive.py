"""Run readers on damaged files and tell what is not one clean line."""

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
from typing import Any

from mallocgame.errors import InputError
from tests.fuzz.mutate import mutate
from tests.fuzz.readers import Reader

HANG_SECONDS = 2.0
LONGEST_LINE = 2100


class Hang(BaseException):
    """A reader took longer than ``HANG_SECONDS``."""


@dataclass
class Report:
    """What happened to one reader; ``faults`` maps a signature to an input and its traceback."""

    name: str
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
            reader.read(path)
    except InputError as error:
        text = str(error)
        if not text.isprintable() or len(text) > LONGEST_LINE:
            return "message is not one printable line", ascii(text[:500])
        return "refused", text
    except Hang:
        return f"hang of more than {limit:g} s at {_place(traceback.format_exc())}", traceback.format_exc()
    except Exception as error:
        return f"{type(error).__name__} at {_place(traceback.format_exc())}", traceback.format_exc()
    return "accepted", ""


def fuzz(reader: Reader, *, seed: int, seconds: float, most: int = 1 << 40) -> Report:
    """Read damaged files until time is up or ``most`` have been read; the same seed makes the same files."""
    report = Report(reader.name)
    seeds = reader.seeds()
    rng = random.Random(f"{seed} {reader.name}")
    with tempfile.TemporaryDirectory(prefix="mallocgame-fuzz-") as folder:
        path = Path(folder) / f"x{reader.suffix}"
        for data in seeds:
            path.write_bytes(data)
            found, detail = verdict(reader, path, 30 * HANG_SECONDS)  # compiles kernels too
            assert found == "accepted", f"{reader.name}: a whole file is not accepted: {found}: {detail}"
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and report.inputs < most:
            data = mutate(rng.choice(seeds), seeds, rng)
            path.write_bytes(data)
            began = time.monotonic()
            found, detail = verdict(reader, path)
            report.slowest_seconds = max(report.slowest_seconds, time.monotonic() - began)
            report.inputs += 1
            report.accepted += found == "accepted"
            report.refused += found == "refused"
            if found not in ("accepted", "refused"):
                report.faults.setdefault(found, (data, detail))
    return report


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> Any:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    began = time.monotonic()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if timer[0]:  # pytest-timeout's
            signal.setitimer(signal.ITIMER_REAL, max(0.01, timer[0] - (time.monotonic() - began)), timer[1])


def _place(trace: str) -> str:
    """Return the innermost line of ours in a traceback."""
    lines = [line.strip() for line in trace.splitlines() if line.strip().startswith("File ")]
    ours = [line for line in lines if "site-packages" not in line and "/lib/python" not in line]
    return (ours or lines or ["nowhere"])[-1].replace('File "', "").replace('"', "")
