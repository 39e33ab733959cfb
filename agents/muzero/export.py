"""``python -m mallocgame.agents.muzero.export RUN FOLDER``: what playing needs of a run, small enough to ship."""

import sys
from pathlib import Path

import jax.numpy as jnp

from mallocgame.agents.muzero.learner import make_learner
from mallocgame.agents.muzero.networks import Model
from mallocgame.agents.muzero.run import RunFolder
from mallocgame.errors import InputError, TraceError


def export(run: Path, folder: Path) -> None:
    """Write ``run.json`` and ``weights.npz`` of a run's newest checkpoint into ``folder``.

    Raises:
        TraceError: the run has no readable checkpoint.
    """
    source = RunFolder(run)
    about = source.about()
    model = Model(source.config(), about["num_actions"])
    observation = {name: jnp.zeros((1, *shape)) for name, shape in about["observation_shapes"].items()}
    learner, _ = make_learner(model, observation, 0)
    state = source.newest()
    if state is None:
        raise TraceError(run, None, "the run has no checkpoint yet")
    source.export(source.load(learner, state), folder)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    try:
        export(Path(sys.argv[1]), Path(sys.argv[2]))
    except InputError as error:
        raise SystemExit(f"export: {error}") from None
