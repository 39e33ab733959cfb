"""Random kills: ``python -m tests.fuzz.kills --kills 200``. What a signal must leave, at any moment of a command.

A run is started in a session and with a temporary folder of its own, and gets SIGINT or SIGTERM (to the process, or to
its whole group, as a terminal does) after a random time, from its first import on. It must end soon, with exit code
130 or 143 (or as it ends when nobody kills it), one line on standard error, no child, no temporary file, and no output
that is not whole.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mallocgame.baselines.packing.buffers import read_buffers, validate_packing, write_packing
from tests.baselines.packing.instances import planted
from tests.paths import ROOT

GRACE_SECONDS = 60.0
LAST_WORDS = {signal.SIGINT: "mallocgame: interrupted", signal.SIGTERM: "mallocgame: terminated"}
_RUN = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
from mallocgame.cli import main, signals
signals.catch_signals()
os.write({ready}, b"x")
os.close({ready})
main()
"""


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command: ``arguments`` from the folder of the run, which ``prepare`` has filled; ``check`` its outputs."""

    name: str
    arguments: Callable[[Path], list[str]]
    longest_seconds: float  # of the random time
    prepare: Callable[[Path], None] = lambda folder: None
    check: Callable[[Path], None] = lambda folder: None


def _packing(folder: Path) -> None:
    buffers = planted(5, num_buffers=300, capacity_bytes=4096, num_steps=300)[0]
    write_packing(folder / "in.csv", buffers, [-1] * len(buffers))


def _packed(folder: Path) -> None:
    out = folder / "out.csv"
    if out.exists():
        buffers = read_buffers(out)
        assert not validate_packing(buffers, [b.fixed_offset or 0 for b in buffers])


def _mapped(folder: Path) -> None:
    from mallocgame.cli.traces import open_trace
    from mallocgame.judge.validation import validate
    from mallocgame.workloads.trace import load_mapping

    trace = open_trace("lstm-v5e")
    if (out := folder / "out.json").exists():
        assert not validate(trace.program, trace.hierarchy, load_mapping(out, trace.program, trace.hierarchy))


def _resumable(folder: Path) -> None:
    """Rows that were written are whole: a second sweep opens the file."""
    from mallocgame.cli.compare_jobs import COLUMNS
    from mallocgame.sweep import RowFile

    if (out := folder / "out.csv").exists():
        with RowFile.open(out, COLUMNS) as table:
            assert all(table.is_made(key) for key in table.rows)


def _evaluate(*solver: str) -> Callable[[Path], list[str]]:
    return lambda folder: ["evaluate", "lstm-v5e", *solver, "--seconds", "60", "--out", str(folder / "out.json")]


COMMANDS = {
    command.name: command
    for command in (
        Command(
            name="pack",
            arguments=lambda f: ["pack", str(f / "in.csv"), "--output", str(f / "out.csv"), "--seconds", "60"],
            longest_seconds=6.0,
            prepare=_packing,
            check=_packed,
        ),
        Command(name="anneal", arguments=_evaluate("--solver", "anneal"), longest_seconds=8.0, check=_mapped),
        Command(name="best", arguments=_evaluate("--solver", "best"), longest_seconds=12.0, check=_mapped),
        Command(name="evolution", arguments=_evaluate("--solver", "evolution"), longest_seconds=12.0, check=_mapped),
        Command(name="cpsat", arguments=_evaluate("--solver", "cpsat"), longest_seconds=8.0, check=_mapped),
        Command(
            name="compare",
            arguments=lambda f: ["compare", "lstm-v5e", "--seconds", "20", "--csv", str(f / "out.csv")],
            longest_seconds=12.0,
        ),
        Command(
            name="sweep",
            arguments=lambda f: [
                *("compare", "lstm-v5e", "lstm-v4", "moe_decode-v5e", "--solvers", "none,greedy,anneal", "--workers"),
                *("2", "--seconds", "5", "--bound-seconds", "1", "--out", str(f / "out.csv")),
            ],
            longest_seconds=20.0,
            check=_resumable,
        ),
        Command(
            name="train",
            arguments=lambda f: ["train", "--workload", "lstm-v5e", "--out", str(f / "run"), "--seconds", "60"],
            longest_seconds=40.0,
        ),
        Command(
            name="capture",
            arguments=lambda f: ["capture", "mallocgame.workloads.models:lstm", "--out", str(f / "out.json")],
            longest_seconds=15.0,
        ),
        Command(
            name="tune",
            arguments=lambda f: [
                "tune",
                "mallocgame.workloads.models:lstm",
                "--out",
                str(f / "run"),
                "--seconds",
                "60",
            ],
            longest_seconds=30.0,
        ),
        Command(
            name="robust",
            arguments=lambda f: [
                "robust",
                "solve",
                "--method",
                "exact",
                "--seconds",
                "60",
                "--out",
                str(f / "out.json"),
            ],
            longest_seconds=8.0,
        ),
        Command(
            name="paging",
            arguments=lambda f: ["paging", "run", "zipf:num_pages=20000,num_requests=20000000", "--k", "1000"],
            longest_seconds=8.0,
        ),
    )
}


def kill_once(command: Command, rng: random.Random) -> list[str]:
    """Start ``command``, kill it, and return what is wrong, one line each."""
    number = rng.choice((signal.SIGINT, signal.SIGTERM))
    to_group = rng.random() < 0.3
    with tempfile.TemporaryDirectory(prefix="mallocgame-kills-") as base:
        folder, temporary = Path(base) / "work", Path(base) / "tmp"
        folder.mkdir()
        temporary.mkdir()
        command.prepare(folder)
        process = _start(command, folder, temporary)
        delay = rng.uniform(0, command.longest_seconds)
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            (os.killpg if to_group else os.kill)(process.pid, number)
        wrong = [f"{command.name}, {number.name} after {delay:.2f} s: {line}" for line in _look(process, number)]
        left = [str(path.relative_to(base)) for path in temporary.rglob("*") if not _is_shared(path)]
        left += [str(path.relative_to(base)) for path in folder.rglob(".mallocgame-*")]
        if left:
            wrong.append(f"{command.name}, {number.name} after {delay:.2f} s: left {', '.join(left[:5])}")
        command.check(folder)
        return wrong


def _start(command: Command, folder: Path, temporary: Path) -> "subprocess.Popen[str]":
    ready, told = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", _RUN.format(ready=told), *command.arguments(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        pass_fds=(told,),
        start_new_session=True,
    )
    os.close(told)
    os.read(ready, 1)
    os.close(ready)
    return process


def _look(process: "subprocess.Popen[str]", number: signal.Signals) -> list[str]:
    try:
        _, said = process.communicate(timeout=GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return [f"still running after {GRACE_SECONDS:g} s"]
    wrong = []
    lines = [line for line in said.splitlines() if line.strip()]
    if process.returncode == 128 + number:
        if not lines or not lines[-1].startswith(LAST_WORDS[number]):
            wrong.append(f"last words {lines[-1:]}")
    elif process.returncode not in (0, 1):
        wrong.append(f"exit code {process.returncode}: {lines[-1:]}")
    if "Traceback" in said or "Exception ignored" in said:
        wrong.append(f"a traceback: {lines[-3:]}")
    time.sleep(0.2)
    if children := _session(process.pid):
        wrong.append(f"children left: {children}")
        for child in children:
            os.kill(child, signal.SIGKILL)
    return wrong


def _session(leader: int) -> list[int]:
    """Return the living processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[3]) == leader and fields[0] not in "ZX":
                found.append(int(entry.name))
    return found


def _is_shared(path: Path) -> bool:
    """Whether a temporary file is one that libraries keep between runs."""
    return (
        path.name in ("libtpu_lockfile", "tpu_logs") or "tpu_logs" in path.parts or path.name.startswith("matplotlib")
    )


def main() -> None:
    """Kill, tell, and exit with 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each command")
    parser.add_argument("--command", action="append", choices=list(COMMANDS), help="only this one; repeatable")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    faults = 0
    for name in args.command or list(COMMANDS):
        rng = random.Random(f"{args.seed} {name}")
        wrong = [line for _ in range(args.kills) for line in kill_once(COMMANDS[name], rng)]
        faults += len(wrong)
        print(f"{name}: {args.kills} kills, {len(wrong)} faults", *wrong, sep="\n  ", flush=True)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
