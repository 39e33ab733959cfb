"""Everything that can be set about an agent and its training, in one frozen value."""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from mallocgame.errors import InputError, TraceError
from mallocgame.files import read_toml


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the network, the search, the games and the learner; each has a default that works.

    Sources: MuZero (arXiv 1911.08265), Gumbel MuZero (ICLR 2022), Reanalyse (arXiv 2104.06294), EfficientZero's
    consistency loss (arXiv 2111.00210).
    """

    # network
    foresight: bool = True  # read what actions would do and what memory will be worth; False: the position alone
    latent_size: int = 128
    hidden_size: int = 128
    num_blocks: int = 2  # residual blocks in dynamics and prediction
    conv_channels: int = 16
    support_size: int = 20  # atoms either side of zero, half a unit of the transformed value apart
    value_scale: float = 30.0  # returns are logs of speed-ups; multiplied by this before the transform
    # search
    model: str = "rules"  # what is searched: the true "rules", or the "learned" model (the paper's way)
    num_simulations: int = 4  # on the rules the first few find most; a learned model wants more
    rules_value_unit: float = 2e-4  # "rules": gain in return that makes an action e times as likely
    policy: str = "gumbel"  # or "muzero" (learned model alone)
    temperature: float = 1.0  # of the "muzero" policy's visit counts during self-play
    value_unit: float = 0.01  # "gumbel": gain in return that makes an action e times as likely; 0: relative
    # games
    stray_moves: float = 8.0  # uniformly random ones, expected in the game with the most noise
    own_games: float = 0.0  # share of the games whose moves are the network's own; the search on the rules only teaches
    num_games: int = 64  # played side by side, fewer where games are long (``selfplay.games_for``)
    moves_in_flight: int = 0  # games played side by side x their moves, at most; 0: as fits the device
    variations: int = 512  # of the best game for each game played (``game/variations.py``): about as long as its search
    variation_temperature: float = 3e-4  # how much slower a changed game may be; falls to 0 over the training budget
    focus_fraction: float = 3e-3  # tensors that together move at most this fraction of the bytes stay in layer 0
    # replay and targets
    replay_steps: int = 60_000
    bootstrap_steps: int = 30  # n of the n-step return
    unroll_steps: int = 5  # K
    priority_exponent: float = 0.5
    reanalyse_fraction: float = 0.0  # of each batch's first positions: searched again with the newest target network
    # learner
    batch_size: int = 128
    updates_per_step: float = 0.01  # learner updates for each environment step (of one game)
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    schedule: str = "linear"  # linear, cosine, rex or constant, over the training budget
    weight_decay: float = 1e-4
    gradient_clip: float = 5.0
    value_weight: float = 0.5
    reward_weight: float = 1.0
    consistency_weight: float = 0.0
    target_decay: float = 0.99  # of the slow copy of the weights that searches during self-play and reanalyse
    records_share: float = 0.5  # of each batch: from the best episode of each program, whose actions are imitated
    imitation_share: float = 1.0  # what such an action gets of the policy target
    imitation_updates: int = 0  # on demonstrations (hybrid) alone, before the first game
    # bookkeeping
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        positive = ("latent_size", "hidden_size", "num_games", "batch_size", "unroll_steps", "bootstrap_steps")
        for name in positive:
            if getattr(self, name) < 1:
                raise InputError(f"agent configuration: {name} must be at least 1, got {getattr(self, name)}")
        for name in ("num_simulations", "variations", "moves_in_flight"):
            if getattr(self, name) < 0:
                raise InputError(f"agent configuration: {name} must be at least 0, got {getattr(self, name)}")
        if not 0.0 <= self.own_games <= 1.0:
            raise InputError(f"agent configuration: own_games must be between 0 and 1, got {self.own_games}")
        if not self.rules_value_unit > 0:
            raise InputError(f"agent configuration: rules_value_unit must be above 0, got {self.rules_value_unit}")
        for name, known in (
            ("model", ("rules", "learned")),
            ("policy", ("gumbel", "muzero")),
            ("schedule", ("linear", "cosine", "rex", "constant")),
        ):
            if getattr(self, name) not in known:
                raise InputError(f"agent configuration: {name} is {getattr(self, name)!r}, expected one of {known}")

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """Read a TOML file of settings; what it does not name keeps its default.

        Raises:
            TraceError: not TOML, an unknown name, a value of the wrong type or range.
        """
        return cls.from_dict(read_toml(path), path)

    @classmethod
    def from_dict(cls, table: dict[str, Any], where: str | Path = "configuration") -> Self:
        """Build from a dictionary, strictly.

        Raises:
            TraceError: an unknown name, or a value of the wrong type or range.
        """
        known = {field.name: field for field in fields(cls)}
        default = cls()
        for name, value in table.items():
            if name not in known:
                raise TraceError(where, None, f"unknown setting {name!r}, expected one of {', '.join(known)}")
            kind = type(getattr(default, name))
            if type(value) is not kind and not (kind is float and type(value) is int):
                raise TraceError(where, None, f"{name} must be a {kind.__name__}, got {value!r}")
        try:
            return replace(default, **table)
        except InputError as error:
            raise TraceError(where, None, str(error)) from None

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return asdict(self)
