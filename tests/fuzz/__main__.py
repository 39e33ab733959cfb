"""``python -m tests.fuzz --seconds 600 [--reader NAME] [--seed N] [--keep FOLDER]``: exit code 1 if one is found."""

import argparse
import sys
from pathlib import Path

from tests.fuzz.drive import fuzz
from tests.fuzz.readers import READERS


def main() -> None:
    """Fuzz every reader, or one, and print a table and the first input of each fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="in all")
    parser.add_argument("--reader", action="append", choices=list(READERS), help="only this one; repeatable")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="write the first input of each fault here")
    args = parser.parse_args()
    names = args.reader or list(READERS)
    faults = 0
    print("| reader | inputs | accepted | refused | slowest s | faults |\n|---|---|---|---|---|---|")
    for name in names:
        report = fuzz(READERS[name], seed=args.seed, seconds=args.seconds / len(names))
        row = (report.inputs, report.accepted, report.refused, f"{report.slowest_seconds:.2f}", len(report.faults))
        print(f"| {name} | {' | '.join(map(str, row))} |", flush=True)
        for number, (signature, (data, detail)) in enumerate(report.faults.items()):
            faults += 1
            print(f"  {signature}\n    {data[:160]!a}", flush=True)
            if args.keep:
                args.keep.mkdir(parents=True, exist_ok=True)
                (args.keep / f"{name}-{number}{READERS[name].suffix}").write_bytes(data)
                (args.keep / f"{name}-{number}.traceback").write_text(detail, encoding="utf-8")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
