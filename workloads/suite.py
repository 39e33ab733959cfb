"""The shipped suite: real programs compiled for real chips, with a fixed split into training and evaluation programs.

``names()`` and ``load(name)`` read it. ``python -m mallocgame.workloads.suite build`` makes it again (extra: tpu), all
of it or the programs and chips named; ``traces/suite.json`` lists what is shipped, and what was kept out and why.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from mallocgame.errors import InputError, TraceError
from mallocgame.files import write_text
from mallocgame.workloads.models import MODELS
from mallocgame.workloads.trace import Trace, load_trace, save_trace

VERSION = 1
CHIPS = ("v4", "v5e", "v6e")
SEVERAL = {"v5e": "v5e:2x2"}  # where programs with a mesh are compiled
BRANCHES = "branches"  # the family of control flow that the data decides
FOLDER = Path(__file__).parent / "traces"
INDEX = FOLDER / "suite.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One program on one chip; ``refused`` says why there is no trace of it (empty: there is)."""

    name: str
    program: str
    chip: str
    split: str
    family: str
    summary: str
    refused: str = ""
    topology: str = ""

    @property
    def is_base(self) -> bool:
        """Whether it is of one chip and without branches: what the tables in docs/ are about."""
        return not self.topology and self.family != BRANCHES


@cache
def entries() -> tuple[Entry, ...]:
    """Return the index, shipped and refused.

    Raises:
        TraceError: the index is damaged.
    """
    try:
        table = json.loads(INDEX.read_text(encoding="utf-8"))
        rows = tuple(Entry(**row) for row in table["entries"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TraceError(INDEX, None, f"cannot be read as the index of the suite: {error}") from error
    if table.get("version") != VERSION:
        raise TraceError(INDEX, None, f"suite version {table.get('version')}, this package reads {VERSION}")
    return rows


def names(*, split: str | None = None, chip: str | None = None, base: bool = False) -> tuple[str, ...]:
    """Return the names of the shipped traces, of one split (``train`` or ``eval``) or chip if given.

    ``base`` leaves out programs for several chips and those with branches.
    """
    if split not in (None, "train", "eval"):
        raise InputError(f"unknown split {split!r}, expected train or eval")
    shipped = (entry for entry in entries() if not entry.refused)
    shipped = (entry for entry in shipped if entry.is_base or not base)
    return tuple(e.name for e in shipped if split in (None, e.split) and chip in (None, e.chip))


def entry(name: str) -> Entry:
    """Return the index entry of a shipped trace.

    Raises:
        InputError: no such trace.
    """
    found = next((e for e in entries() if e.name == name), None)
    if found is None:
        raise InputError(f"no shipped trace {name!r}; {hint(name)}")
    if found.refused:
        raise InputError(f"{name} is not shipped: {found.refused}")
    return found


def hint(name: str) -> str:
    """Return which shipped traces a wrong name may have meant."""
    near = get_close_matches(name, names(), n=3)
    return f"did you mean {' or '.join(near)}?" if near else "`mallocgame suite` lists the shipped ones"


def path(name: str) -> Path:
    """Return the file of a shipped trace."""
    return FOLDER / f"{entry(name).name}.json.gz"


def load(name: str) -> Trace:
    """Return a shipped trace.

    Raises:
        InputError: no such trace.
    """
    return load_trace(path(name))


def build(programs: list[str], chips: list[str]) -> int:
    """Capture the programs for the chips, write traces and index; return how many were refused."""
    from mallocgame.workloads.capture import capture
    from mallocgame.workloads.program_reference import ProgramReference
    from mallocgame.workloads.xla.compiler import Compiler

    made: dict[str, Entry] = {}
    with Compiler() as compiler:
        for program in programs:
            model = MODELS[program]
            for chip in (chip for chip in chips if chip in model.chips):
                name, start = f"{program}-{chip}", time.perf_counter()
                facts: dict[str, Any] = {"program": program, "chip": chip, "split": model.split}
                target = SEVERAL[chip] if model.mesh else chip
                facts |= {"family": model.family, "summary": model.summary, "topology": target if model.mesh else ""}
                file, refused = FOLDER / f"{name}.json.gz", ""
                try:
                    reference = ProgramReference(module="mallocgame.workloads.models", name=program, mesh=model.mesh)
                    save_trace(file, capture(reference, chip=target, name=name, compiler=compiler))
                except InputError as error:
                    refused = str(error)
                    file.unlink(missing_ok=True)
                made[name] = Entry(name=name, refused=refused, **facts)
                seconds = time.perf_counter() - start
                sys.stderr.write(f"{name}: {refused or f'{file.stat().st_size} bytes'} ({seconds:.1f} s)\n")
                _write_index(made)
    return sum(bool(e.refused) for e in made.values())


def _write_index(made: dict[str, Entry]) -> None:
    old = {e.name: e for e in entries()} if INDEX.exists() else {}
    merged = old | made
    order = [f"{program}-{chip}" for program in MODELS for chip in CHIPS]
    rows = [asdict(merged[name]) for name in order if name in merged]
    rows = [{key: value for key, value in row.items() if value or key != "topology"} for row in rows]
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    write_text(INDEX, f'{{"version": {VERSION}, "entries": [\n{lines}\n]}}\n')
    entries.cache_clear()


def main() -> None:
    """Command line of the builder."""
    parser = argparse.ArgumentParser(prog="python -m mallocgame.workloads.suite", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    builder = commands.add_parser("build", help="capture programs again (all by default)")
    builder.add_argument("--programs", default=",".join(MODELS), help="comma-separated names")
    builder.add_argument("--chips", default=",".join(CHIPS), help="comma-separated chips")
    commands.add_parser("list", help="list what is shipped and what is not")
    options = parser.parse_args()
    try:
        if options.command == "list":
            for row in entries():
                sys.stdout.write(f"{row.name:28} {row.split:6} {row.family:14} {row.refused or row.summary}\n")
            return
        programs, chips = options.programs.split(","), options.chips.split(",")
        unknown = [p for p in programs if p not in MODELS] + [c for c in chips if c not in CHIPS]
        if unknown:
            raise InputError(f"unknown program or chip {unknown[0]!r}")
        build(programs, chips)
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
