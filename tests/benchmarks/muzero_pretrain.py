"""Make the weights that ship, on hundreds of programs: imitate what ``play`` finds, then search on the rules and learn.

``python -m tests.benchmarks.muzero_pretrain PROGRAMS RUN --seconds 1500`` with the programs of ``muzero_programs``. A
mapping of each is kept in PROGRAMS/demonstrations; both stages go on where they were stopped (Ctrl-C or SIGTERM save).
Then ``python -m mallocgame.agents.muzero.export RUN agents/muzero/pretrained``.
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from mallocgame.agents.muzero.config import Config
from mallocgame.agents.muzero.run import RunFolder
from mallocgame.agents.muzero.trainer import Trainer, TrainingReport
from mallocgame.baselines.play.play import play
from mallocgame.judge.simulation import home_seconds
from mallocgame.mapping import Mapping
from mallocgame.solver import Problem
from mallocgame.workloads.formats.mapping_file import load_mapping, save_mapping
from mallocgame.workloads.trace import load_trace

SETTINGS = Path("agents/muzero/generalist.toml")
STEPS = 120_000  # decisions that ``play`` takes for a demonstration


def main() -> None:
    """Demonstrate, then train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, required=True, help="of training, over all goes; 0: demonstrate only")
    parser.add_argument("--config", type=Path, default=SETTINGS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--demonstration-seconds", type=float, default=float("inf"), help="in this go; some may miss")
    parser.add_argument("--without", choices=("features", "teachers"), help="train for the ablation, with a part away")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    problems = load_problems(chosen.programs)
    starts = demonstrate(chosen.programs / "demonstrations", problems, chosen.steps, chosen.demonstration_seconds)
    if not chosen.seconds:
        return
    resume = (chosen.run / "run.json").exists()
    config = RunFolder(chosen.run).config() if resume else Config.from_toml(chosen.config)
    if chosen.without == "features":
        config = replace(config, foresight=False)
    if chosen.without == "teachers":
        config = replace(config, imitation_updates=0)
    given = [] if resume or chosen.without == "teachers" else starts
    trainer = Trainer(problems, config, chosen.run, seed=chosen.seed, starts=given, resume=resume)
    _say(f"{len(problems)} programs, {trainer.records.num_steps} demonstrated decisions, {trainer.steps} moves so far")
    trainer.train(seconds=chosen.seconds, report=_tell, report_seconds=20.0)


def load_problems(folder: Path) -> list[Problem]:
    """Return the programs of a folder that leave something to decide and to gain, by name."""
    traces = [load_trace(file) for file in sorted(folder.glob("*.json.gz"))]
    problems = [Problem(trace.program, trace.hierarchy) for trace in traces]
    share = Config().focus_fraction
    return [x for x in problems if x.program.focused(share).num_decisions > 3 and home_seconds(*x) > 0]


def demonstrate(folder: Path, problems: list[Problem], steps: int, seconds: float) -> list[Mapping | None]:
    """Return what ``play`` makes of each program in so many decisions; what is on disk is read.

    None for those that there was no time for; they come in an order that mixes all kinds.
    """
    folder.mkdir(exist_ok=True)
    begun = time.monotonic()
    for number in np.random.default_rng(0).permutation(len(problems)).tolist():
        file = folder / f"{problems[number].program.name}.json"
        if not file.exists() and time.monotonic() - begun < seconds:
            save_mapping(file, play(*problems[number], steps=steps, annealing=False).mapping, *problems[number])
    files = [folder / f"{problem.program.name}.json" for problem in problems]
    _say(f"{sum(map(Path.exists, files))} of {len(files)} demonstrations, {time.monotonic() - begun:.0f} s")
    return [load_mapping(file, *x) if file.exists() else None for file, x in zip(files, problems, strict=True)]


def _tell(report: TrainingReport) -> None:
    losses = {name: round(value, 4) for name, value in report.losses.items()}
    _say(
        f"{report.elapsed_seconds:.0f} s: {report.updates} updates, {report.steps} moves, {report.episodes} games, "
        f"{report.moves_per_second:.0f} moves/s, mean return {report.mean_return:.3f}, {losses}"
    )


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
