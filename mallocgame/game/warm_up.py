"""Compile or load the game's kernels before a clock starts."""

import numpy as np

from mallocgame.game import rules
from mallocgame.game.batch import MallocGameBatch
from mallocgame.hierarchy import preset
from mallocgame.jit import warm_up
from mallocgame.program import Instruction, Program, Tensor, Use, UseKind


def warm_up_rules() -> None:
    """Compile, or load from the cache, all kernels that playing needs; says so on stderr if it must compile."""
    warm_up("rules", _play)


def _play() -> None:
    """Play a game of one decision by every way in: single and batch, with masks, observations and replay."""
    uses = (Use(step=0, bytes=1024, kind=UseKind.DEFINE), Use(step=2, bytes=1024, operand=0))
    program = Program(
        name="warm up",
        instructions=tuple(Instruction(name=f"i{step}", compute_seconds=1e-6) for step in range(3)),
        tensors=(Tensor(name="x", size_bytes=1024, uses=uses),),
    )
    batch = MallocGameBatch([(program, preset("v5e"))], 1)
    game = batch.games[0]
    batch.step(np.zeros(1, dtype=np.int64))
    rules.legal_actions(game, game.start)
    rules.step(game, rules.initial_state(game), 0)
    rules.decode(game, np.zeros(game.num_decisions, dtype=np.int64))
