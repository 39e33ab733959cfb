"""Train sb3-contrib's MaskablePPO on the game, unchanged, and compare it with masked random play.

    pip install 'mallocgame[dev]'
    python examples/maskable_ppo.py --family training --family loop
    mallocgame scoreboard xla greedy agent:random agent:examples.maskable_ppo:on_real_traces

The first trains one policy per family on random programs, then plays programs it has not seen. A few seconds of
training are enough to beat random play; they are not enough to beat a good solver. The second trains on the shipped
traces of the training split and plays those that are held out.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3.common.monitor import Monitor

import mallocgame  # noqa: F401 (registers MallocGame-v0)
from mallocgame.workloads import suite

FAMILIES = ("training", "loop")
REAL_STEPS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Mean returns over the same unseen programs: the part of the all-in-layer-0 time that play saves."""

    family: str
    learned: float
    random: float


def make(family: str, *, seed: int, count: int, decisions: int) -> gymnasium.Env[Any, Any]:
    """Return an environment that draws from ``count`` programs of a family."""
    return gymnasium.make("MallocGame-v0", family=family, seed=seed, count=count, decisions=decisions)


def train(family: str, *, steps: int, seed: int, decisions: int) -> MaskablePPO:
    """Return a policy after ``steps`` decisions on 16 programs of a family."""
    return learn(make(family, seed=1000, count=16, decisions=decisions), steps=steps, seed=seed)


def on_real_traces(
    seed: int, *, steps: int = REAL_STEPS
) -> Callable[[dict[str, np.ndarray[Any, Any]], dict[str, Any]], int]:
    """Return a policy for ``mallocgame scoreboard`` after ``steps`` decisions on the training split's v5e traces."""
    traces = suite.names(split="train", chip="v5e")
    model = learn(gymnasium.make("MallocGame-v0", suite=traces, reward="log"), steps=steps, seed=seed)

    def choose(observation: dict[str, np.ndarray[Any, Any]], info: dict[str, Any]) -> int:
        mask = info["action_mask"].astype(bool)
        return int(model.predict(observation, action_masks=mask, deterministic=True)[0])

    return choose


def learn(env: gymnasium.Env[Any, Any], *, steps: int, seed: int) -> MaskablePPO:
    """Return a policy after ``steps`` decisions in ``env``."""
    torch.set_num_threads(1)
    env = Monitor(env)
    model = MaskablePPO(
        "MultiInputPolicy",
        env,
        n_steps=512,
        batch_size=128,
        n_epochs=6,
        learning_rate=1e-3,
        gamma=1.0,  # an episode's return is what counts
        ent_coef=0.003,
        seed=seed,
        device="cpu",
    )
    return model.learn(steps)


def mean_return(family: str, model: MaskablePPO | None, *, episodes: int, decisions: int) -> float:
    """Play programs 0, 1, ... of a family, ``model``'s best action or (None) a random legal one each time."""
    env = make(family, seed=0, count=episodes, decisions=decisions)
    env.action_space.seed(0)
    total = 0.0
    for program in range(episodes):
        observation, info = env.reset(options={"program": program})
        done = False
        while not done:
            mask = info["action_mask"]
            if model is None:
                action = env.action_space.sample(mask)
            else:
                action = model.predict(observation, action_masks=mask.astype(bool), deterministic=True)[0]
            observation, reward, done, _, info = env.step(action)
            total += float(reward)
    return total / episodes


def compare(family: str, *, steps: int, seed: int = 0, episodes: int = 16, decisions: int = 40) -> Score:
    """Train on a family and return what the policy and random play save on unseen programs."""
    model = train(family, steps=steps, seed=seed, decisions=decisions)
    return Score(
        family=family,
        learned=mean_return(family, model, episodes=episodes, decisions=decisions),
        random=mean_return(family, None, episodes=episodes, decisions=decisions),
    )


def main() -> None:
    """Read the command line and print a row per family."""
    parser = argparse.ArgumentParser(description="MaskablePPO on MallocGame-v0")
    parser.add_argument("--family", action="append", help=f"may be given several times (default: {' '.join(FAMILIES)})")
    parser.add_argument("--steps", type=int, default=8192, help="decisions to train on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"{'family':<12} {'MaskablePPO':>12} {'random':>8}   mean part of the layer-0 time saved, unseen programs")
    for family in arguments.family or FAMILIES:
        score = compare(family, steps=arguments.steps, seed=arguments.seed)
        print(f"{score.family:<12} {score.learned:12.3f} {score.random:8.3f}")


if __name__ == "__main__":
    main()
