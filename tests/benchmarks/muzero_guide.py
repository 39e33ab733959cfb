"""Worth of the network as a guide of local search: uniform changes against changes where the network doubts.

``python -m tests.benchmarks.muzero_guide RUN TRACE... --steps 300000 --seeds 3 --out FILE``: both begin at the greedy
mapping and play as many decisions; times as multiples of XLA's speed, hoisting allowed. The network's own time does not
count here (a few percent).
"""

import argparse
import json
from functools import partial
from pathlib import Path

from mallocgame.agents.muzero.run import RunFolder
from mallocgame.agents.muzero.solver import _Agent
from mallocgame.baselines.placement.greedy import greedy
from mallocgame.game import rules
from mallocgame.game.local_search import refine
from mallocgame.judge.simulation import simulate
from mallocgame.solver import Incumbent, Limits, Problem
from mallocgame.workloads import suite
from tests.benchmarks.muzero_report import table


def main() -> None:
    """Print a row for each trace, and append it to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("traces", nargs="+")
    parser.add_argument("--steps", type=int, default=300_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    folder, rows = RunFolder(chosen.run), []
    for name in chosen.traces:
        trace = suite.load(name)
        assert trace.mapping is not None
        xla = simulate(trace.program, trace.hierarchy, trace.mapping).total_seconds
        pair = (trace.program.focused(folder.config().focus_fraction), trace.hierarchy)
        agent = _Agent(folder, 0, 16, pair, 0)
        mapping = greedy(trace.program, trace.hierarchy).mapping
        _, start = rules.decode(agent.game, rules.actions_of(agent.game, mapping))
        row = {"trace": name, "steps": chosen.steps, "seeds": chosen.seeds}
        for label in ("uniform", "network"):
            found = []
            for seed in range(chosen.seeds):
                search = Incumbent(Problem(trace.program, trace.hierarchy), Limits(steps=chosen.steps), seed=seed)
                guide = partial(agent.guide, search) if label == "network" else None
                refine(search, agent.game, start, seed=seed, guide=guide)
                found.append(round(xla / search.seconds, 4))
            row[label] = found
        rows.append(row)
        if chosen.out is not None:
            with chosen.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    table(rows)


if __name__ == "__main__":
    main()
