"""Worth of search and of the network: one game of never-seen programs, from the network's own game and from greedy's.

``python -m tests.benchmarks.muzero_search RUN [TRACE...] --simulations 16,64 --seeds 3 --out FILE``: per trace, times
as multiples of XLA's speed (no hoisting): the network's greedy game, the greedy mapping as the
rules play it, and each of the two improved by a search of so many simulations a move (median of the seeds, which draw
the tensors of exchanges and the changes of leads; ``all, ...``: each of them); and ``play`` in as many decisions as
``--steps``. No training. CPU seconds of the process. No trace named: twelve of families that no weights were made from.
A TRACE is a shipped one's name, a trace file, or a folder of them; ``--hoist`` lets copies be made before loops.
``--leads network`` leaves out the searches from greedy's mapping. ``--weights`` names the weights in the rows; traces
that the file has of them are not run again. The last lines have geometric means, of the file's rows for each name;
``--summary`` prints nothing else.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
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
from mallocgame.collapse import collapse
from mallocgame.game import rules
from mallocgame.game.batch import MallocGameBatch
from mallocgame.judge.simulation import simulate
from mallocgame.mapping import Mapping
from mallocgame.workloads import suite
from mallocgame.workloads.trace import Trace, load_trace
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
    parser.add_argument("traces", nargs="*", metavar="TRACE")
    parser.add_argument("--hoist", action="store_true")
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds after which no trace is begun")
    parser.add_argument("--simulations", default="16,64")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400_000)
    parser.add_argument("--leads", default="network,greedy")
    parser.add_argument("--weights", default="shipped", help="a name for the rows")
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    counts = [int(text) for text in chosen.simulations.split(",")]
    begun = time.monotonic()
    for trace in () if chosen.summary else traces_of(chosen.traces or NEVER_SEEN):
        key = {"weights": chosen.weights, "trace": trace.name, "seeds": chosen.seeds, "hoist": chosen.hoist}
        key["simulations"] = chosen.simulations
        if time.monotonic() - begun > chosen.limit or any(key.items() <= row.items() for row in read(chosen.out)):
            continue
        row = _row(trace, counts, chosen)
        if row:
            with chosen.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(key | row) + "\n")
    rows = [row for row in read(chosen.out) if row.get("simulations") == chosen.simulations]
    rows = [row for row in rows if row.get("hoist", False) == chosen.hoist]
    table([_shown(row) for row in rows])
    for weights in dict.fromkeys(row["weights"] for row in rows):
        own = [_shown(row) for row in rows if row["weights"] == weights]
        numbers = [name for name, value in own[0].items() if isinstance(value, float)]
        means = {name: statistics.geometric_mean(row[name] for row in own) for name in numbers}
        table([{"weights": weights, "traces": len(own)} | means])


def _shown(row: Row) -> Row:
    """Return a row without CPU seconds and what the single seeds found."""
    return {name: value for name, value in row.items() if not name.startswith(("s, ", "all, "))}


def traces_of(names: Iterable[str]) -> Iterator[Trace]:
    """Yield shipped traces by name, trace files, and those of folders."""
    for name in names:
        path = Path(name)
        for file in sorted(path.glob("*.json.gz")) if path.is_dir() else [path]:
            trace = load_trace(file) if file.exists() else suite.load(name)
            yield replace(trace, name=file.name.removesuffix(".json.gz"))


def _row(trace: Trace, counts: list[int], chosen: argparse.Namespace) -> Row:
    """Return what a trace's games are worth; nothing where there is no decision, or no time of XLA's own."""
    folder, seeds = RunFolder(chosen.run), chosen.seeds
    if trace.mapping is None:
        return {}
    xla = simulate(trace.program, trace.hierarchy, trace.mapping).total_seconds
    whole = trace.program if chosen.hoist else trace.program.without_hoisting()
    view = collapse(whole)  # what can be played; the program itself where it has no branches
    pair = (view.program.focused(folder.config().focus_fraction), trace.hierarchy)
    if not pair[0].num_decisions:
        return {}

    def speed(mapping: Mapping) -> float:
        return xla / simulate(whole, trace.hierarchy, view.expand(mapping)).total_seconds

    probe = MallocGameBatch([pair], 1)
    model = Model(folder.check(shapes_of(probe), probe.num_actions), probe.num_actions)
    weights = folder.load_parameters(make_learner(model, probe.observations, 0)[0])
    prior = make_any_search(model, num_simulations=0, explore=False)
    game = probe.games[0]
    built = rules.decode(game, rules.actions_of(game, greedy(view.program, trace.hierarchy).mapping))[1]
    own, mapping, _ = next(play_games(pair, prior, weights, key_of(0), 1))
    leads = {"network": own.astype(np.int64), "greedy": built}
    row: Row = {"decisions": game.num_decisions}
    row |= {"network": speed(mapping), "greedy": speed(rules.mapping_of(game, built))}
    for count in counts:
        search = make_any_search(model, num_simulations=count, explore=False)
        for lead in chosen.leads.split(","):
            begun, speeds = time.process_time(), []
            for seed in range(seeds):
                played = next(play_games(pair, search, weights, key_of(seed), 1, lead=leads[lead]))
                speeds.append(speed(played[1]))
            row[f"{lead} + {count}"] = statistics.median(speeds)
            row[f"all, {lead} + {count}"] = speeds
            row[f"s, {lead} + {count}"] = (time.process_time() - begun) / seeds
    begun = time.process_time()
    row["play"] = xla / play(whole, trace.hierarchy, steps=chosen.steps, annealing=False).seconds
    row["s, play"] = time.process_time() - begun
    return row


if __name__ == "__main__":
    main()
