"""``python -m tests.fuzz --seconds 600 [--reader NAME] [--seed N] [--keep FOLDER]``: exit code 1 if one is found now.

``--rows FILE`` takes a row for each reader and counts on: a seed that is in it already is not run again, and ``--seed``
left out takes the next. ``--report`` prints what all rows come to.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.fuzz.drive import Report, fuzz
from tests.fuzz.readers import READERS

COUNTS = ("inputs", "accepted", "refused", "faults")


def main() -> None:
    """Fuzz every reader, or one, and print a table and the first input of each fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="in all, of the process's own time")
    parser.add_argument("--inputs", type=int, default=1 << 40, help="of each reader, at most")
    parser.add_argument("--reader", action="append", choices=list(READERS), help="only this one; repeatable")
    parser.add_argument("--seed", type=int, help="left out: one more than the last of --rows")
    parser.add_argument("--keep", type=Path, help="write the first input of each fault here")
    parser.add_argument("--rows", type=Path, help="a .jsonl file that counts")
    parser.add_argument("--report", action="store_true", help="print what --rows holds, read nothing")
    args = parser.parse_args()
    names = args.reader or list(READERS)
    rows, made = _read(args.rows), []
    if not args.report:
        seed = args.seed if args.seed is not None else max((row["seed"] for row in rows), default=-1) + 1
        done = {row["reader"] for row in rows if row["seed"] == seed}
        made = [_fuzzed(name, seed, args) for name in names if name not in done]
    print("\n".join(_table(rows + made)))
    sys.exit(1 if any(row["faults"] for row in made) else 0)


def _fuzzed(name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    report = fuzz(READERS[name], seed=seed, seconds=args.seconds / len(args.reader or READERS), most=args.inputs)
    row = {"reader": name, "seed": seed, "inputs": report.inputs, "accepted": report.accepted}
    row |= {"refused": report.refused, "slowest_seconds": round(report.slowest_seconds, 3)}
    row |= {"seconds": round(report.seconds, 1), "faults": len(report.faults)}
    if args.rows:
        with args.rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    for number, (signature, (data, detail)) in enumerate(report.faults.items()):
        print(f"{name}: {signature}\n    {data[:160]!a}", flush=True)
        if args.keep:
            _keep(args.keep, report, number, data, detail)
    return row


def _keep(folder: Path, report: Report, number: int, data: bytes, detail: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{report.name}-{number}{READERS[report.name].suffix}").write_bytes(data)
    (folder / f"{report.name}-{number}.traceback").write_text(detail, encoding="utf-8")


def _read(path: Path | None) -> list[dict[str, Any]]:
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a row for each reader, and one for all."""
    yield f"| reader | {' | '.join(COUNTS)} | slowest s |\n|---|---|---|---|---|---|"
    for name in [*dict.fromkeys(row["reader"] for row in rows), None]:
        mine = [row for row in rows if name in (row["reader"], None)]
        counts = (str(sum(row[count] for row in mine)) for count in COUNTS)
        slowest = max((row["slowest_seconds"] for row in mine), default=0.0)
        yield f"| {name or 'all'} | {' | '.join(counts)} | {slowest:.2f} |"


if __name__ == "__main__":
    main()
