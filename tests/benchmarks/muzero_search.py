"""Worth of search and of the network: one game of never-seen programs, from the network's own game and from greedy's.

``python -m tests.benchmarks.muzero_search RUN [TRACE...] --simulations 16,64 --seeds 3 --out FILE``: per trace, times
as multiples of XLA's speed (no hoisting): the network's greedy game, the greedy mapping as the
rules play it, and each of the two improved by a search of so many simulations a move (median of the seeds, which draw
the tensors of exchanges and the changes of leads; ``all, ...``: each of them); and ``play`` in as many decisions as
``--steps``. No training. CPU seconds of the process. No trace named: twelve of families that no weights were made from.
``--leads network`` leaves out the searches from greedy's mapping. ``--weights`` names the weights in the rows; traces
that the file has of them are not run again. The last lines have geometric means, of the file's rows for each name;
``--summary`` prints nothing else.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from mallocgame.agents.muzero.learner import make_learner
from mallocgame.agents.muzero.networks import Model
from mallocgame.agents.muzero.rules_search import make_any_search
from mallocgame.agents.muzero.run import RunFolder
from mallocgame.agents.muzero.search import key_of
from mallocgame.agents.muzero.selfplay import play as play_games
from mallocgame.agents.muzero.selfplay import shapes_of
from mallocgame.baselines.placement.greedy import greedy
from mallocgame.baselines.play.play import play
from mallocgame.game import rules
from mallocgame.game.batch import MallocGameBatch
from mallocgame.judge.simulation import simulate
from mallocgame.workloads import suite
from tests.benchmarks.muzero_report import read, table

Row = dict[str, Any]
NEVER_SEEN = (
    *("graph_network-v5e", "decode_loop-v5e", "mobilenet-v4", "vit-v5e", "bert_training-v4", "graph_network-v6e"),
    *("decode_loop-v4", "mobilenet-v6e", "bert-v5e", "llama_decode-v6e", "strassen-v5e", "vit-v4"),
)


def main() -> None:
    """Print a row for each trace, and append it to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("traces", nargs="*")
    parser.add_argument("--simulations", default="16,64")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400_000)
    parser.add_argument("--leads", default="network,greedy")
    parser.add_argument("--weights", default="shipped", help="a name for the rows")
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    counts = [int(text) for text in chosen.simulations.split(",")]
    for name in () if chosen.summary else chosen.traces or NEVER_SEEN:
        key = {"weights": chosen.weights, "trace": name, "seeds": chosen.seeds, "simulations": chosen.simulations}
        if any(key.items() <= row.items() for row in read(chosen.out)):
            continue
        with chosen.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(key | _row(name, counts, chosen)) + "\n")
    rows = [row for row in read(chosen.out) if row.get("simulations") == chosen.simulations]
    table([_shown(row) for row in rows])
    for weights in dict.fromkeys(row["weights"] for row in rows):
        own = [_shown(row) for row in rows if row["weights"] == weights]
        numbers = [name for name, value in own[0].items() if isinstance(value, float)]
        means = {name: statistics.geometric_mean(row[name] for row in own) for name in numbers}
        table([{"weights": weights, "traces": len(own)} | means])


def _shown(row: Row) -> Row:
    """Return a row without CPU seconds and what the single seeds found."""
    return {name: value for name, value in row.items() if not name.startswith(("s, ", "all, "))}


def _row(name: str, counts: list[int], chosen: argparse.Namespace) -> Row:
    trace, folder, seeds = suite.load(name), RunFolder(chosen.run), chosen.seeds
    assert trace.mapping is not None
    xla = simulate(trace.program, trace.hierarchy, trace.mapping).total_seconds
    program = trace.program.without_hoisting()
    pair = (program.focused(folder.config().focus_fraction), trace.hierarchy)
    probe = MallocGameBatch([pair], 1)
    model = Model(folder.check(shapes_of(probe), probe.num_actions), probe.num_actions)
    weights = folder.load_parameters(make_learner(model, probe.observations, 0)[0])
    prior = make_any_search(model, num_simulations=0, explore=False)
    game = probe.games[0]
    found = rules.decode(game, rules.actions_of(game, greedy(program, trace.hierarchy).mapping))
    own, _, seconds = next(play_games(pair, prior, weights, key_of(0), 1))
    leads = {"network": (seconds, own.astype(np.int64)), "greedy": found}
    row: Row = {"decisions": game.num_decisions}
    row |= {lead: xla / time_seconds for lead, (time_seconds, _) in leads.items()}
    for count in counts:
        search = make_any_search(model, num_simulations=count, explore=False)
        for lead in chosen.leads.split(","):
            actions = leads[lead][1]
            begun, times = time.process_time(), []
            for seed in range(seeds):
                key = key_of(seed)
                times.append(next(play_games(pair, search, weights, key, 1, lead=actions))[2])
            row[f"{lead} + {count}"] = xla / statistics.median(times)
            row[f"all, {lead} + {count}"] = [xla / seconds for seconds in times]
            row[f"s, {lead} + {count}"] = (time.process_time() - begun) / seeds
    begun = time.process_time()
    row["play"] = xla / play(program, trace.hierarchy, steps=chosen.steps, annealing=False).seconds
    row["s, play"] = time.process_time() - begun
    return row


if __name__ == "__main__":
    main()
