"""What a run tells its caller now and then."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mallocgame.agents.muzero.learner import Losses, learning_rate

if TYPE_CHECKING:
    from mallocgame.agents.muzero.trainer import Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingReport:
    """What ``train`` tells its caller now and then."""

    elapsed_seconds: float
    progress: float  # share of the budget that is spent
    steps: int  # moves made
    episodes: int
    updates: int
    losses: dict[str, float]
    mean_return: float  # of the last 64 episodes
    best: dict[str, float]  # judged seconds by program
    moves_per_second: float
    simulations_per_second: float
    replay_steps: int
    improved: tuple[str, ...]  # programs whose best mapping changed since the last report


class Reporter:
    """Tells the caller of ``train`` now and then, and what has come together since."""

    def __init__(
        self, trainer: "Trainer", report: Callable[[TrainingReport], None] | None, every_seconds: float
    ) -> None:
        self._trainer, self._report, self._every = trainer, report, every_seconds
        self._begun = self._last = time.monotonic()
        self._steps = trainer.steps
        self._losses: tuple[Losses, float] | None = None  # of the last update, read when told, and its learning rate
        self._improved: set[str] = set()

    def tell(self, progress: float, losses: Losses | None, improved: set[str]) -> None:
        """Note what is new; report if it is time."""
        if losses is not None:
            self._losses = losses, learning_rate(self._trainer.config, progress)
        self._improved |= improved
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            self.close(progress)

    def close(self, progress: float, improved: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        """Report now, and log it."""
        if self._report is None:
            return
        improved, self._improved = self._improved | improved, set()
        row = self._row(progress, tuple(sorted(improved)))
        mean_return = row.mean_return if np.isfinite(row.mean_return) else None
        self._trainer.folder.log(
            {name: getattr(row, name) for name in TrainingReport.__dataclass_fields__} | {"mean_return": mean_return}
        )
        self._report(row)

    def _row(self, progress: float, improved: tuple[str, ...]) -> TrainingReport:
        """Return the run as it stands."""
        run = self._trainer
        rate = (run.steps - self._steps) / max(time.monotonic() - self._begun, 1e-9)
        return TrainingReport(
            elapsed_seconds=run.spent_seconds,
            progress=progress,
            steps=run.steps,
            episodes=run.episodes,
            updates=int(run.learner.updates),
            losses=self._read(),
            mean_return=float(np.mean(run.returns)) if run.returns else float("nan"),
            best={name: best.seconds for name, best in run.best.items()},
            moves_per_second=rate,
            simulations_per_second=rate * run.config.num_simulations,
            replay_steps=run.replay.num_steps,
            improved=improved,
        )

    def _read(self) -> dict[str, float]:
        if self._losses is None:
            return {}
        losses, rate = self._losses
        names = ("total", "policy", "value", "reward", "consistency")
        return {name: float(getattr(losses, name)) for name in names} | {"learning_rate": rate}
