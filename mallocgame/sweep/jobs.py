"""Jobs, which are keyed by all that their row depends on, and what may become of one."""

import hashlib
import json
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from mallocgame.errors import InputError
from mallocgame.foreign import at_users_place, users_traceback
from mallocgame.sweep.rows import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What makes one row."""

    key: str  # ``digest_of`` all that the row depends on
    about: Row  # the columns that are known before the work: what the row says if the work fails
    task: Callable[[], Any]  # returns what a worker gets; called when a worker is free for it
    group: str = ""  # jobs of a group share what a worker keeps between them, such as an opened trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A job's row, and files (by relative path) that the sweep writes before it."""

    row: Row
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The job's input is bad: another try would say the same."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The work raised, or its worker died: another try may succeed."""

    reason: str
    is_worker_lost: bool = False


Answer = Made | Refused | Failed
Work = Callable[[Any], Made]
Maker = Callable[[], AbstractContextManager[Work]]  # what a worker enters once, before its first job


def attempt(work: Work, task: Any) -> Answer:
    """Do the work once. A fault shows its traceback on standard error, the user's lines alone, and ends nothing."""
    try:
        return work(task)
    except InputError as error:
        return Refused(reason=f"{error}{at_users_place(error)}")
    except Exception as error:
        sys.stderr.write(users_traceback(error) or traceback.format_exc())
        return Failed(reason=f"{type(error).__name__}: {error}")


def digest_of(*content: Any) -> str:
    """Return 16 hexadecimal digits of a hash of JSON values, or of the bytes in a single ``bytes`` argument.

    >>> digest_of({"b": 1, "a": None}) == digest_of({"a": None, "b": 1})
    True
    """
    if len(content) == 1 and isinstance(content[0], bytes):
        data = content[0]
    else:
        data = json.dumps(content, sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()[:16]


def source_digest(module: str, folder: str | None = None) -> str:
    """Return the digest of a module's own file, found without importing anything; empty where there is none.

    Args:
        module: its dotted name.
        folder: searched first.
    """
    places: list[str] | None = [*([folder] if folder else []), "", *sys.path]
    origin = None
    for depth in range(module.count(".") + 1):
        spec = PathFinder.find_spec(".".join(module.split(".")[: depth + 1]), places)
        if spec is None:
            return ""
        origin, places = spec.origin, list(spec.submodule_search_locations or ())
    return digest_of(Path(origin).read_bytes()) if origin and Path(origin).is_file() else ""
