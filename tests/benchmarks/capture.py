"""Capture against a full compilation, side by side: ``python -m tests.benchmarks.capture [PROGRAM…]`` (extra: tpu)."""

import statistics
import sys
from dataclasses import replace

from mallocgame.workloads.program_reference import parse_reference
from mallocgame.workloads.xla.compiler import TOTALS_ONLY, Compiler, CompileRequest

PROGRAMS = ("mlp", "lstm", "llama_decode", "moe_decode", "resnet50")
REPEATS = 3


def main() -> None:
    """Print a table; medians of REPEATS runs, chip v5e, one warm process each."""
    sys.stdout.write(
        "| program | capture, s | totals only, s | full compilation, s | full / capture |\n|---|---|---|---|---|\n"
    )
    with Compiler() as whole, Compiler(vmodule=TOTALS_ONLY) as totals:
        for name in sys.argv[1:] or PROGRAMS:
            reference = parse_reference(f"mallocgame.workloads.models:{name}")
            asked = CompileRequest(reference=reference, chip="v5e")
            capture, score, full = [], [], []
            for _ in range(REPEATS):
                capture.append(whole.compile(asked).check(name).seconds)
                score.append(totals.compile(replace(asked, hlo=False)).check(name).seconds)
                full.append(whole.compile(replace(asked, full=True)).check(name).seconds)
            a, b, c = statistics.median(capture), statistics.median(score), statistics.median(full)
            sys.stdout.write(f"| {name} | {a:.2f} | {b:.2f} | {c:.2f} | {c / a:.1f} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
