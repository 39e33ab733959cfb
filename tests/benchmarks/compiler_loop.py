"""The loop with the compiler, over programs and chips: ``python -m tests.benchmarks.compiler_loop [--programs …]``.

One row each: decisions of the best known mapping that the compiler carries out exactly, judged time before, after and
of that mapping, the compiler's own estimate and sum of cycles before and after, seconds per evaluation beside those of
a full compilation.
"""

import argparse
import statistics
import sys

from mallocgame.errors import InputError
from mallocgame.tune import Tuned, tune
from workloads.compiler import Compiler

PROGRAMS = "lstm,tied_loop,strassen,moe_decode,resnet50,gpt2_training"


def main() -> None:
    """Run and print a Markdown table and the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", default=PROGRAMS)
    parser.add_argument("--chips", default="v5e,v4,v6e")
    parser.add_argument("--seconds", type=float, default=120.0, help="search budget a program")
    parser.add_argument("--no-full", action="store_true", help="leave out full compilations")
    options = parser.parse_args()
    columns = (
        "program|realised %|default µs|after µs|times|paper µs|of headroom %|XLA est. µs|cycles, M|s / eval|full s"
    )
    _line(f"|{columns}|")
    _line("|" + "---|" * (columns.count("|") + 1))
    done: list[Tuned] = []
    with Compiler() as compiler:
        for program in options.programs.split(","):
            for chip in options.chips.split(","):
                try:
                    found = tune(
                        f"workloads.models:{program}",
                        chip=chip,
                        seconds=options.seconds,
                        full=not options.no_full,
                        compiler=compiler,
                    )
                except InputError as error:
                    _line(f"|{program} {chip}|{str(error)[:80]}|" + "|" * (columns.count("|") - 1))
                    continue
                done.append(found)
                _row(f"{program} {chip}", found)
    ahead = [t for t in done if t.goal_seconds < 0.97 * t.default_seconds]
    if ahead:
        middle = statistics.median(headroom(t) for t in ahead)
        _line(f"\nheadroom realised, median of the {len(ahead)} with 3 % or more: {100 * middle:.0f} %")
    if any(t.full_compile_seconds for t in done):
        ratios = [t.full_compile_seconds / t.seconds_per_evaluation for t in done if t.full_compile_seconds]
        _line(f"full compilation over evaluation, median: {statistics.median(ratios):.1f} times")
    worse = sum(t.judged_seconds > t.default_seconds for t in done)
    _line(f"programs worse in judged time: {worse} of {len(done)}")


def headroom(tuned: Tuned) -> float:
    """Return the part of (default - best on paper) that the compiler realised."""
    return (tuned.default_seconds - tuned.judged_seconds) / (tuned.default_seconds - tuned.goal_seconds)


def _row(name: str, t: Tuned) -> None:
    part = f"{100 * headroom(t):.0f}" if t.goal_seconds < t.default_seconds else "–"
    cycles = (
        "–" if t.cycles is None or t.default_cycles is None else f"{t.default_cycles / 1e6:.2f} → {t.cycles / 1e6:.2f}"
    )
    full = "–" if t.full_compile_seconds is None else f"{t.full_compile_seconds:.1f}"
    cells = (
        name,
        f"{100 * t.realised_share:.0f}",
        f"{1e6 * t.default_seconds:.1f}",
        f"{1e6 * t.judged_seconds:.1f}",
        f"{t.default_seconds / t.judged_seconds:.2f}",
        f"{1e6 * t.goal_seconds:.1f}",
        part,
        f"{1e6 * t.default_xla_seconds:.1f} → {1e6 * t.xla_seconds:.1f}",
        cycles,
        f"{t.seconds_per_evaluation:.2f}",
        full,
    )
    _line("|" + "|".join(cells) + "|")


def _line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
