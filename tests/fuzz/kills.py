"""Random kills: ``python -m tests.fuzz.kills --kills 100``. What a signal must leave, at any moment of a command.

A run is started in a session and with a temporary folder of its own, and gets SIGINT or SIGTERM (to the process, or
to its whole group, as a terminal does) after a random time, from its first import on. It must end soon, with exit
code 130 or 143 (or as it ends when nobody kills it), one line on standard error, no child, no temporary file, and no
output that is not whole, and the folder from which it was started as it was. ``--rows FILE`` takes a row for each
kill and goes on where it stopped, ``--minutes`` limits one go,
``--cold`` kills while kernels compile; ``--report`` counts the rows.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mallocgame.baselines.packing.buffers import read_buffers, validate_packing, write_packing
from tests.baselines.packing.instances import planted
from tests.paths import ROOT

GRACE_SECONDS = 60.0
END_SECONDS = 3.0  # so long a busy machine may take to end what has been told to
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


def _evaluate(solver: str) -> Callable[[Path], list[str]]:
    return _line(f"evaluate lstm-v5e --solver {solver} --seconds 60 --out", "out.json")


def _line(text: str, out: str) -> Callable[[Path], list[str]]:
    """Return the arguments in ``text``, and ``out`` in the folder of the run."""
    return lambda folder: [*text.split(), str(folder / out)]


def _policy(folder: Path) -> None:
    from mallocgame.workloads.checkpointing.policy import load_checkpoint_policy

    if (out := folder / "out.json").exists():
        load_checkpoint_policy(out)


def _page(folder: Path) -> None:
    if (out := folder / "out.html").exists():
        assert out.read_text(encoding="utf-8").rstrip().endswith("</html>")


def _programs(folder: Path) -> None:
    """Write a table of two programs that compile quickly."""
    lines = [f"mallocgame.workloads.models:{name},{name}" for name in ("mlp", "lstm")]
    (folder / "in.csv").write_text("\n".join(["function,name", *lines]) + "\n", encoding="utf-8")


def _traces(folder: Path) -> None:
    from mallocgame.workloads.trace import load_trace

    for path in (folder / "out").glob("*.json.gz"):
        load_trace(path)


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
        Command(name="anneal", arguments=_evaluate("anneal"), longest_seconds=8.0, check=_mapped),
        Command(name="best", arguments=_evaluate("best"), longest_seconds=10.0, check=_mapped),
        Command(name="evolution", arguments=_evaluate("evolution"), longest_seconds=10.0, check=_mapped),
        Command(name="cpsat", arguments=_evaluate("cpsat"), longest_seconds=8.0, check=_mapped),
        Command(
            name="compare", arguments=_line("compare lstm-v5e --seconds 20 --csv", "out.csv"), longest_seconds=12.0
        ),
        Command(
            name="sweep",
            arguments=_line(
                "compare lstm-v5e lstm-v4 moe_decode-v5e --solvers none,greedy,anneal --workers 2 --seconds 5 "
                "--bound-seconds 1 --out",
                "out.csv",
            ),
            longest_seconds=15.0,
            check=_resumable,
        ),
        Command(
            name="train", arguments=_line("train --workload lstm-v5e --seconds 60 --out", "run"), longest_seconds=20.0
        ),
        Command(
            name="capture",
            arguments=_line("capture mallocgame.workloads.models:lstm --out", "out.json"),
            longest_seconds=10.0,
        ),
        Command(
            name="captures",
            arguments=lambda f: ["capture", "--programs", str(f / "in.csv"), "--out", str(f / "out"), "--workers", "2"],
            longest_seconds=12.0,
            prepare=_programs,
            check=_traces,
        ),
        Command(
            name="tune",
            arguments=_line("tune mallocgame.workloads.models:lstm --seconds 60 --out", "run"),
            longest_seconds=20.0,
        ),
        Command(
            name="tunes",
            arguments=lambda f: ["tune", "--programs", str(f / "in.csv"), "--out", str(f / "out"), "--seconds", "20"],
            longest_seconds=20.0,
            prepare=_programs,
        ),
        Command(
            name="fit",
            arguments=_line(
                "fit mallocgame.workloads.models:bert_training --chip v5e --seconds 20 --read-back --out", "out.json"
            ),
            longest_seconds=20.0,
            check=_policy,
        ),
        Command(
            name="explain",
            arguments=_line("explain lstm-v5e --solver-seconds 10 --html", "out.html"),
            longest_seconds=10.0,
            check=_page,
        ),
        Command(
            name="remedies",
            arguments=_line("explain lstm-v5e --program mallocgame.workloads.models:lstm --html", "out.html"),
            longest_seconds=20.0,
            check=_page,
        ),
        Command(name="warm-up", arguments=lambda f: ["warm-up", "--workers", "2"], longest_seconds=6.0),
        Command(
            name="robust",
            arguments=_line("robust solve --method exact --seconds 60 --out", "out.json"),
            longest_seconds=8.0,
        ),
        Command(
            name="paging",
            arguments=lambda f: ["paging", "run", "zipf:num_pages=20000,num_requests=20000000", "--k", "1000"],
            longest_seconds=8.0,
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """One kill: which signal, after how long, how the command ended, and what was wrong, one line each."""

    signal: str
    delay_seconds: float
    exit_code: int
    wrong: list[str]


def kill_once(command: Command, rng: random.Random, *, cold: bool = False) -> Kill:
    """Start ``command``, kill it, and look at what is left; ``cold``: where no kernel is compiled yet."""
    number = rng.choice((signal.SIGINT, signal.SIGTERM))
    to_group = rng.random() < 0.3
    delay = rng.uniform(0, command.longest_seconds)
    with tempfile.TemporaryDirectory(prefix="mallocgame-kills-") as base:
        folder, temporary, here, kernels = (Path(base) / name for name in ("work", "tmp", "here", "kernels"))
        for each in (folder, temporary, here, kernels):
            each.mkdir()
        (here / "mine.txt").touch()
        command.prepare(folder)
        caches = {"NUMBA_CACHE_DIR": str(kernels)} if cold else {}
        process = _start(command.arguments(folder), {"TMPDIR": str(temporary), **caches}, here)
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            (os.killpg if to_group else os.kill)(process.pid, number)
        wrong = _look(process, number)
        left = [str(path.relative_to(base)) for path in temporary.rglob("*") if not _is_shared(path)]
        left += [str(path.relative_to(base)) for path in folder.rglob(".mallocgame-*")]
        if [path.name for path in here.iterdir()] != ["mine.txt"]:
            wrong.append(f"the working directory holds {[path.name for path in here.iterdir()]}")
        if left:
            wrong.append(f"left {', '.join(left[:5])}")
        try:
            command.check(folder)
        except Exception as error:
            wrong.append(f"a broken output: {error!r}")
        return Kill(signal=number.name, delay_seconds=round(delay, 2), exit_code=process.returncode, wrong=wrong)


def _start(arguments: list[str], environment: dict[str, str], here: Path) -> "subprocess.Popen[str]":
    ready, told = os.pipe()
    path = os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    process = subprocess.Popen(
        [sys.executable, "-c", _RUN.format(ready=told), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=here,
        env={**os.environ, **environment, "PYTHONPATH": path},
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
    deadline = time.monotonic() + END_SECONDS
    while (children := _session(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.2)
    if children:
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
    return path.name == "libtpu_lockfile" or path.name.startswith("matplotlib")


def _read_rows(path: Path | None) -> list[dict[str, Any]]:
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path and path.exists() else []
    )


def _kill_in_turn(
    names: list[str], kills: int, seed: int, rows: Path | None, deadline: float, *, cold: bool
) -> Iterator[dict[str, Any]]:
    """Yield a row for each kill that is still to be made, the commands in turn."""
    known = {(row["command"], row["seed"], row["number"]) for row in _read_rows(rows) if row.get("cold", False) == cold}
    for number in range(kills):
        for name in names:
            if (name, seed, number) in known:
                continue
            if time.monotonic() > deadline:
                return
            found = kill_once(COMMANDS[name], random.Random(f"{seed} {name} {number}"), cold=cold)
            row = {"command": name, "seed": seed, "number": number, **asdict(found)} | ({"cold": True} if cold else {})
            if rows:
                with rows.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
            yield row


def report(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a table: for each command its kills, how many found it running, and what was wrong."""
    yield "| command | kills | of which met it running | faults |\n|---|---|---|---|"
    for name in COMMANDS:
        mine = [row for row in rows if row["command"] == name]
        met = sum(row["exit_code"] in (130, 143) for row in mine)
        yield f"| {name} | {len(mine)} | {met} | {sum(bool(row['wrong']) for row in mine)} |"
    met = sum(row["exit_code"] in (130, 143) for row in rows)
    yield f"| all | {len(rows)} | {met} | {sum(bool(row['wrong']) for row in rows)} |"


def main() -> None:
    """Kill, tell, and exit with 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each command")
    parser.add_argument("--command", action="append", choices=list(COMMANDS), help="only this one; repeatable")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cold", action="store_true", help="each with an empty cache of kernels: while they compile")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no kill after so long")
    parser.add_argument("--rows", type=Path, help="a .jsonl file: rows are added, what is there is not done again")
    parser.add_argument("--report", action="store_true", help="print the table of --rows, kill nothing")
    args = parser.parse_args()
    made = []
    if not args.report:
        deadline = time.monotonic() + 60 * args.minutes
        names = args.command or list(COMMANDS)
        for row in _kill_in_turn(names, args.kills, args.seed, args.rows, deadline, cold=args.cold):
            made.append(row)
            for line in row["wrong"]:
                print(f"{row['command']}, {row['signal']} after {row['delay_seconds']} s: {line}", flush=True)
    print("\n".join(report(_read_rows(args.rows) or made)))
    sys.exit(1 if any(row["wrong"] for row in made) else 0)


if __name__ == "__main__":
    main()
