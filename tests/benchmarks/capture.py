"""What a capture costs: ``python -m tests.benchmarks.capture [PROGRAM…]`` (extra: tpu).

Against a full compilation, side by side, in seconds of a warm process; with ``--cpu`` the processor seconds of a whole
capture instead, all processes together and JAX's import included.
"""

import resource
import statistics
import sys
from dataclasses import replace

from mallocgame.workloads.capture import capture as run
from mallocgame.workloads.program_reference import parse_reference
from mallocgame.workloads.xla.compiler import TOTALS_ONLY, Compiler, CompileRequest

PROGRAMS = ("mlp", "lstm", "llama_decode", "moe_decode", "resnet50")
REPEATS = 3


def main() -> None:
    """Print a table; medians of REPEATS runs, chip v5e."""
    names = [name for name in sys.argv[1:] if name != "--cpu"] or list(PROGRAMS)
    if "--cpu" in sys.argv:
        processor_seconds(names)
    else:
        against_full(names)


def processor_seconds(names: list[str]) -> None:
    """Print the processor seconds of each capture."""
    sys.stdout.write("| program | instructions | compilations | processor, s |\n|---|---|---|---|\n")
    for name in names:
        reference, spent = parse_reference(f"mallocgame.workloads.models:{name}"), []
        for _ in range(REPEATS):
            before = _processor_seconds()
            trace = run(reference, chip="v5e")
            spent.append(_processor_seconds() - before)
        facts = f"{trace.program.num_steps} | {trace.provenance['compilations']}"
        sys.stdout.write(f"| {name} | {facts} | {statistics.median(spent):.1f} |\n")
        sys.stdout.flush()


def _processor_seconds() -> float:
    """Return what this process and all that it has started and waited for have used."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def against_full(names: list[str]) -> None:
    """Print seconds of a capture, of totals only, and of a full compilation, one warm process each."""
    sys.stdout.write(
        "| program | capture, s | totals only, s | full compilation, s | full / capture |\n|---|---|---|---|---|\n"
    )
    with Compiler() as whole, Compiler(vmodule=TOTALS_ONLY) as totals:
        for name in names:
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
