"""What the shipped traces are judged, to the last digit: ``python -m tests.benchmarks.suite_totals`` writes the table.

``tests/workloads/test_suite.py`` holds every later version to it. Only traces that the table lacks are added;
``--again`` writes all of it anew, which says that the judge or the format has changed: bump and log it.
"""

import hashlib
import json
import sys

import numpy as np

from mallocgame.files import write_text
from mallocgame.judge.simulation import home_seconds, lower_bound, simulate
from mallocgame.workloads import suite
from mallocgame.workloads.trace import Trace
from tests.paths import ROOT

TABLE = ROOT / "tests" / "data" / "suite_totals.json"


def totals(trace: Trace) -> dict[str, str]:
    """Return exact figures (hexadecimal floats) of a trace, and digests of what was read and of the whole timeline."""
    assert trace.mapping is not None
    line = simulate(trace.program, trace.hierarchy, trace.mapping)
    arrays = (
        line.start_seconds,
        line.elapsed_seconds,
        line.stall_seconds,
        line.layer_bytes,
        line.transfer_finish_seconds,
    )
    moved = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays))
    uses, tables = trace.program.uses, (trace.mapping.residency_table, trace.mapping.transfer_table)
    read = hashlib.sha256(
        b"".join(np.ascontiguousarray(a).tobytes() for a in (uses.step, uses.bytes, uses.kind, *tables))
    )
    return {
        "xla": line.total_seconds.hex(),
        "home": home_seconds(trace.program, trace.hierarchy).hex(),
        "bound": lower_bound(trace.program, trace.hierarchy).hex(),
        "timeline": moved.hexdigest()[:16],
        "read": read.hexdigest()[:16],
    }


def main() -> None:
    """Write the table."""
    known = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() and "--again" not in sys.argv else {}
    rows = {name: known.get(name) or totals(suite.load(name)) for name in suite.names()}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in sorted(rows.items()))
    write_text(TABLE, f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
