"""The same seed, the same answer, in another process: ``python -m tests.benchmarks.determinism [--cold]``.

Runs itself with other hash seeds, other numbers of threads and, with ``--cold``, an empty cache of kernels (minutes),
and compares digests of what the game shows and what each solver finds with a budget in steps.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from typing import Any

from tests.paths import ROOT

SOLVERS = ("anneal", "evolution", "gorp", "random", "greedy", "xla-heuristic", "search", "pack")
VARIANTS: tuple[dict[str, str], ...] = (
    {"PYTHONHASHSEED": "0", "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    {"PYTHONHASHSEED": "77", "NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"},
)


def answers(names: tuple[str, ...]) -> dict[str, str]:
    """Return a digest for the game and for each solver, made in this process."""
    return {
        "game": _game(),
        **{name: _packing(name) if name in ("search", "pack") else _solver(name) for name in names},
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _game() -> str:
    import gymnasium
    import numpy as np

    from tests.toy import toy_trace

    toy = toy_trace(num_layers=6, trip_count=3)
    env = gymnasium.make("MallocGame-v0", program=toy.program, hierarchy=toy.hierarchy)
    observation, info = env.reset(seed=3)
    rng = np.random.default_rng(3)
    seen = hashlib.sha256()
    done, rewards = False, []
    while not done:
        for name in sorted(observation):
            seen.update(np.ascontiguousarray(observation[name]).tobytes())
        legal = np.flatnonzero(info["action_mask"])
        observation, reward, done, _, info = env.step(int(rng.choice(legal)))
        rewards.append(float(reward))
    return _digest([seen.hexdigest(), rewards])


def _solver(name: str) -> str:
    from mallocgame.evaluation import find_solver
    from mallocgame.hierarchy import preset
    from mallocgame.solver import Problem
    from tests.toy import toy_program

    found, _ = find_solver(name)
    problem = Problem(toy_program(num_layers=8), preset("v5e"))
    result = found(*problem, steps=3, seed=5)
    return _digest([repr(result.mapping), result.seconds])


def _packing(solver: str) -> str:
    from mallocgame.baselines.packing import pack
    from tests.baselines.packing.instances import planted

    buffers = planted(3, num_buffers=50, capacity_bytes=4096, num_steps=80)[0]
    name: Any = "search" if solver == "search" else "first-fit"
    return _digest(pack(buffers, 4096, solver=name, seconds=600, seed=7, workers=1).offsets.tolist())


def elsewhere(names: tuple[str, ...], variant: dict[str, str]) -> dict[str, str]:
    """Return ``answers`` of a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.determinism", "--answers", ",".join(names)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ, **variant})
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Compare all variants; exit code 1 if any differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", help="print the digests of these solvers and end")
    parser.add_argument("--cold", action="store_true", help="also with an empty cache of kernels")
    args = parser.parse_args()
    if args.answers:
        print(json.dumps(answers(tuple(args.answers.split(",")))))
        return
    found = [elsewhere(SOLVERS, variant) for variant in VARIANTS]
    if args.cold:
        with tempfile.TemporaryDirectory() as folder:
            found.append(elsewhere(SOLVERS, {**VARIANTS[1], "NUMBA_CACHE_DIR": folder}))
    different = [name for name in found[0] if len({answer[name] for answer in found}) > 1]
    print(f"{len(found)} processes, {len(found[0])} answers, different: {', '.join(different) or 'none'}")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
