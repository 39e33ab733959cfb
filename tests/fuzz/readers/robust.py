"""Robust instances, tables of others, networks and their examples."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.readers.shared import Reader, in_folder, npz

KNAPSACK = b"4 20 2\n10 2 1 5 3\n8 1 2 4 2\n9 3 1 6 4\n7 1 1 3 2\n"


LOANS = b"3 50 10 10 0.12 0.144 0.8 0 2\n10 5 0.1 0.2\n12 6 0.3 0.1\n9 4 0.2 0.2\n"


TABLE = b"File name,Time,Best primal bound,a,b,Solved\nx_1,3.5,100,1,2,1\ny,TIME_LIMIT,90,1,2,0\n"


def _read_knapsack(path: Path) -> Any:
    from mallocgame.baselines.neur2ro.problems.knapsack import read_knapsack

    return read_knapsack(path)


def _read_loans(path: Path) -> Any:
    from mallocgame.baselines.neur2ro.problems.loans import read_loans

    return read_loans(path)


def _read_table(path: Path) -> Any:
    from mallocgame.baselines.neur2ro.formats import read_branch_and_price

    return read_branch_and_price(path)


def _pretrained(name: str) -> Callable[[], list[bytes]]:
    def seeds() -> list[bytes]:
        from mallocgame.baselines.neur2ro.registry import PRETRAINED

        return [(PRETRAINED / "knapsack" / name).read_bytes()]

    return seeds


def _read_network(name: str) -> Callable[[Path], Any]:
    def read(path: Path) -> Any:
        from mallocgame.baselines.neur2ro.network import load_network
        from mallocgame.baselines.neur2ro.registry import PRETRAINED

        return in_folder(path, name, PRETRAINED / "knapsack", load_network)

    return read


def _examples() -> list[bytes]:
    arrays = {f"0.{name}": np.zeros((2, 3, 2), np.float32) for name in ("x_points", "xi_points")}
    arrays |= {f"0.{name}": np.zeros((3, 2), np.float32) for name in ("x_items", "xi_items")}
    return [npz({**arrays, "0.labels": np.zeros((2, 2), np.float32)})]


def _read_examples(path: Path) -> Any:
    from mallocgame.baselines.neur2ro.data import DataPlan, load_examples

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "shard-00000.npz").symlink_to(path.resolve())
        return load_examples(folder, DataPlan(instances=1, plans=2, scenarios=2, worst_cases=0))


PLAN = b'{"format": "mallocgame.neur2ro.plan", "version": 1, "problem": "knapsack", "x": [0, 1.0, 1, 0], "gap": null}'


def _read_plan(path: Path) -> Any:
    from mallocgame.cli.robust import _plan

    return _plan(path)


READERS = (
    Reader(name="plan", suffix=".json", seeds=lambda: [PLAN], read=_read_plan),
    Reader(name="knapsack", suffix=".txt", seeds=lambda: [KNAPSACK], read=_read_knapsack),
    Reader(name="loans", suffix=".txt", seeds=lambda: [LOANS], read=_read_loans),
    Reader(name="branch-and-price", suffix=".csv", seeds=lambda: [TABLE], read=_read_table),
    Reader(name="network-head", suffix=".json", seeds=_pretrained("network.json"), read=_read_network("network.json")),
    Reader(
        name="network-weights",
        suffix=".safetensors",
        seeds=_pretrained("network.safetensors"),
        read=_read_network("network.safetensors"),
    ),
    Reader(name="examples", suffix=".npz", seeds=_examples, read=_read_examples),
)
