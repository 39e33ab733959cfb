"""The folder of a tuning run: its lock, the state to go on from, and the best options.

A file is written whole or not at all, the state before the options, and options that are better are never replaced: a
run may be killed at any moment and loses at most what it is evaluating.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from mallocgame.compiler_options import load_about, save_compiler_options
from mallocgame.errors import InputError, TraceError
from mallocgame.files import read_json, write_text
from mallocgame.program import Program
from mallocgame.system import owner_of, sign, try_lock
from mallocgame.workloads.compiler_loop.overrides import Action, Override
from mallocgame.workloads.xla.compiler import Options
from mallocgame.workloads.xla.records import Position

STATE = "state.json"
OPTIONS = "options.json"
ILLEGAL = "illegal-"  # before the name of what the compiler has refused: kept, but not where users load it
LOCK = "tune.lock"
NEWER = ("schedule", "topology", "mesh")  # parts of an identity that older folders do not have
OTHER_SCHEDULE = "the program has changed since, or changes from one run to the next: it is scheduled otherwise"
STATE_VERSION = 2  # 1 called overrides decisions and did not know the schedule

Identity = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedSearch:
    """What a later run goes on from."""

    rounds: int
    judged_seconds: float
    flags: Options
    overrides: tuple[Override, ...]
    lowering: str = ""  # a hash of the program as it was lowered, empty if not known


def identity_of(provenance: Mapping[str, Any], program: Program) -> Identity:
    """Return what must agree for overrides to mean the same: function, chips, versions, and the schedule's names."""
    keys = ("program", "arguments", "chip", "topology", "mesh", "jax", "jaxlib", "libtpu")
    names = "\n".join(f"{i.name} {i.opcode} {i.trip_count}" for i in program.instructions)
    schedule = hashlib.sha256(names.encode()).hexdigest()[:16]
    return {**{key: provenance.get(key) for key in keys}, "schedule": schedule}


class TuningFolder:
    """A folder that one run at a time works in; ``open_for`` makes, locks and checks it."""

    def __init__(self, path: Path, identity: Identity) -> None:
        self.path, self._identity = path, identity

    @classmethod
    @contextmanager
    def open_for(cls, path: str | os.PathLike[str], identity: Identity) -> Iterator[Self]:
        """Yield the folder, locked.

        Raises:
            InputError: another run works in it, it holds another program's results, or it cannot be written.
            TraceError: a file in it is damaged.
        """
        folder = Path(path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise InputError(f"{folder}: cannot write: {error.strerror or error}") from None
        try:
            _take(lock, folder)
            for left in folder.glob(".mallocgame-*-*.tmp"):  # of a run that was killed while it wrote
                if not Path("/proc", left.name.split("-")[1]).exists():
                    left.unlink(missing_ok=True)
            found = cls(folder, identity)
            found.best_seconds()
            yield found
        finally:
            os.close(lock)

    def load(self) -> SavedSearch | None:
        """Return the state that an earlier run has left, None if there is none.

        Raises:
            InputError: it is another program's.
            TraceError: it is damaged.
        """
        path = self.path / STATE
        if not path.exists():
            return None
        try:
            state = read_json(path)
            rows = state["decisions" if state["version"] == 1 else "overrides"]
            found = SavedSearch(
                rounds=int(state["rounds"]),
                judged_seconds=float(state["judged_seconds"]),
                flags=dict(state["flags"]),
                overrides=tuple(_override(row) for row in rows),
                lowering=str(state.get("lowering", "")),
            )
            self._check(path, {key: state[key] for key in self._identity if key not in NEWER or key in state})
        except Exception as error:
            if isinstance(error, (InputError, TraceError)):
                raise
            raise TraceError(path, None, f"is not the state of a tuning run: {error}") from error
        return found

    def best_seconds(self) -> float:
        """Return the judged time of the options that are there, infinite if there are none.

        Raises:
            InputError: they are another program's.
            TraceError: the file is damaged.
        """
        path = self.path / OPTIONS
        if not path.exists():
            return float("inf")
        about = load_about(path)
        self._check(path, {key: about[key] for key in self._identity if key in about})
        seconds = about.get("judged_seconds")
        return float(seconds) if isinstance(seconds, (int, float)) else float("inf")

    def save(self, state: SavedSearch, options: Options, about: Mapping[str, str | float | None]) -> None:
        """Write the state, and the options where there are any that are as good as those that are there.

        Raises:
            TraceError: a file cannot be written.
        """
        row = asdict(replace(state, flags={k: v for k, v in state.flags.items() if k in options}))
        text = json.dumps({"version": STATE_VERSION, **self._identity, **row}) + "\n"
        if state.judged_seconds <= self._state_seconds():
            write_text(self.path / STATE, text)
        if options and state.judged_seconds <= self.best_seconds():
            self._write(options, about)

    def correct(self, was_seconds: float, options: Options, about: Mapping[str, str | float | None]) -> None:
        """Say anew what the options do that were written with a figure which does not hold.

        Raises:
            TraceError: the file cannot be written.
        """
        if self.best_seconds() == was_seconds:
            self._write(options, about)

    def save_default(self, about: Mapping[str, str | float | None]) -> None:
        """Where there are no options yet write that there are none: the file is there, and what it holds is right.

        Raises:
            TraceError: the file cannot be written.
        """
        if not (self.path / OPTIONS).exists():
            self._write({}, about)

    def set_aside(self, refused_seconds: float = 0.0) -> None:
        """Rename options and state that the compiler refuses now: nobody should load them, and nothing is lost.

        Options that are better than ``refused_seconds`` are others, an earlier run's, and stay.
        """
        for name in (STATE,) if self.best_seconds() < refused_seconds else (STATE, OPTIONS):
            if (self.path / name).exists():
                os.replace(self.path / name, self.path / f"{ILLEGAL}{name}")

    def _write(self, options: Options, about: Mapping[str, str | float | None]) -> None:
        save_compiler_options(self.path / OPTIONS, options, {**self._identity, **about})

    def _state_seconds(self) -> float:
        found = self.load()
        return found.judged_seconds if found else float("inf")

    def _check(self, path: Path, found: Mapping[str, Any]) -> None:
        different = {k: f"{k} {v!r}, not {self._identity[k]!r}" for k, v in found.items() if v != self._identity[k]}
        if different:
            reason = OTHER_SCHEDULE if list(different) == ["schedule"] else "; ".join(different.values())
            raise InputError(f"{path}: belongs to another run ({reason}); name another folder")


def _take(lock: int, folder: Path) -> None:
    if not try_lock(lock):
        raise InputError(f"{folder}: another run works in this folder (process {owner_of(lock)}); name another one")
    sign(lock)


def _override(row: dict[str, Any]) -> Override:
    place = row["place"]
    where = Position(instruction=str(place["instruction"]), operand=int(place["operand"]), index=tuple(place["index"]))
    return Override(
        action=Action(row["action"]),
        tensor=int(row["tensor"]),
        place=where,
        step=int(row["step"]),
        start_after=int(row["start_after"]),
        turn=int(row.get("turn", -1)),
    )
