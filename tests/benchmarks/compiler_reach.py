"""Whether mappings made for the compiler come true sooner: ``python -m tests.benchmarks.compiler_reach``.

For each program two mappings are planned, with the same solver, seconds and start: one of what XLA:TPU can be brought
to do (``for_compiler``), one of all that the hardware can. Each is suggested to the real compiler once.
"""

import argparse
import sys
from typing import Any

from mallocgame.baselines.anneal import anneal
from mallocgame.explanation.reachable import reachable
from mallocgame.judge.simulation import simulate
from mallocgame.solver import Problem
from mallocgame.workloads.compiler_loop.reaction import Reaction
from mallocgame.workloads.compiler_loop.verify import Target
from mallocgame.workloads.program_reference import parse_reference
from mallocgame.workloads.xla.compiler import Compiler

CASES = (
    "lstm_training-v5e,resnet50-v5e,unet-v4,vit-v5e,winograd-v5e,gpt2_training-v5e,bert_training-v4,strassen_deep-v4"
)
COLUMNS = ("program", "default µs", "free: on paper", "told", "realised", "for the compiler: on paper", "realised")


def main() -> None:
    """Print a row for each program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default=CASES)
    parser.add_argument("--solver-seconds", type=float, default=10.0)
    options = parser.parse_args()
    sys.stdout.write(f"|{'|'.join(COLUMNS)}|\n|{'---|' * len(COLUMNS)}\n")
    with Compiler() as compiler:
        for case in options.cases.split(","):
            name, _, chip = case.rpartition("-")
            target = Target.of(parse_reference(f"mallocgame.workloads.models:{name}"), chip, compiler)
            sys.stdout.write(f"|{case}|{'|'.join(measure(target, options.solver_seconds))}|\n")
            sys.stdout.flush()


def measure(target: Target, seconds: float) -> list[str]:
    """Return the cells of a row, in microseconds."""
    trace = target.trace
    problem = Problem(trace.program.without_hoisting(), trace.hierarchy)
    given: dict[str, Any] = {"seconds": seconds, "start": trace.mapping, "refine": True}
    free, told = anneal(*problem, **given), anneal(*problem, for_compiler=True, **given)
    left = simulate(*problem, reachable(*problem, free.mapping, trace.mapping)).total_seconds
    done = [target.evaluate(Reaction(problem=problem).suggestion(m.mapping)).judged_seconds for m in (free, told)]
    return [f"{1e6 * s:.1f}" for s in (target.default_seconds, free.seconds, left, done[0], told.seconds, done[1])]


if __name__ == "__main__":
    main()
