"""The fidelity table: ``python -m tests.benchmarks.fidelity`` writes docs/fidelity_table.md.

With ``--held-out N`` it also compiles N of the programs again with other mappings (extra: tpu) and predicts them.
"""

import argparse
import sys

from mallocgame.errors import InputError
from mallocgame.files import write_text
from mallocgame.workloads import suite
from mallocgame.workloads.xla.fidelity import Fidelity, compare, held_out
from tests.paths import ROOT

TABLE = ROOT / "docs" / "fidelity_table.md"
OTHER = "overrides { hlo_operand_filter { size_gte: 1000000 } override_options { prefetch_eagerness: 0.5 } }"
HEADER = (
    "| trace | instructions | all in HBM: within 1 % | XLA's mapping, its errors repeated: within 1 % | total, both "
    "errors repeated | total, fair links | judged honestly, against XLA's figure | XLA's figure, ms |\n"
    "|---|---|---|---|---|---|---|---|"
)


def row(found: Fidelity) -> str:
    """Return a line of the table."""
    shares = f"{100 * found.home_share_within_1_percent:.2f} % | {100 * found.step_share_within_1_percent:.2f} %"
    errors = f"{100 * found.total_error:+.3f} % | {100 * found.fair_error:+.2f} % | {100 * found.honest_error:+.1f} %"
    return f"| {found.trace} | {found.steps} | {shares} | {errors} | {1e3 * found.xla_seconds:.4f} |"


def predicted(names: tuple[str, ...]) -> list[str]:
    """Compile each trace's program with another mapping; return the lines of the held-out table."""
    from mallocgame.workloads.program_reference import parse_reference
    from mallocgame.workloads.xla.compiler import Compiler, CompileRequest
    from mallocgame.workloads.xla.log import parse_log

    lines = [
        "",
        "| trace | instructions that take another time than in the trace's own compilation | predicted within 1 % "
        "of XLA, by time | instructions outside |",
        "|---|---|---|---|",
    ]
    with Compiler() as compiler:
        for name in names:
            entry = suite.entry(name)
            options: dict[str, str | bool] = {"xla_tpu_preferred_prefetch_overrides": OTHER}
            reference = parse_reference(f"mallocgame.workloads.models:{entry.program}")
            compilation = compiler.compile(
                CompileRequest(reference=reference, chip=entry.chip, options=options, hlo=False)
            ).check(name)
            log = parse_log(compilation.log.splitlines(), name)
            share, outside, moved = held_out(suite.load(name), log)
            lines.append(f"| {name} | {moved} | {100 * share:.2f} % | {outside} |")
            sys.stderr.write(lines[-1] + "\n")
    return lines


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.fidelity", description=__doc__)
    parser.add_argument("--held-out", default="", help="comma-separated traces to compile again with another mapping")
    options = parser.parse_args()
    found = [compare(suite.load(name)) for name in suite.names(base=True)]
    steps = sum(f.steps for f in found)
    outside = sum(f.steps_outside for f in found)
    worst = max(abs(f.total_error) for f in found)
    lines = [
        "<!-- written by python -m tests.benchmarks.fidelity -->",
        f"{len(found)} traces, {steps} instructions, {outside} outside 1 %; "
        f"largest error of a total {100 * worst:.3f} %.",
        "",
        HEADER,
        *(row(f) for f in found),
    ]
    if options.held_out:
        lines += predicted(tuple(options.held_out.split(",")))
    write_text(TABLE, "\n".join(lines) + "\n")
    sys.stdout.write(lines[1] + "\n")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
