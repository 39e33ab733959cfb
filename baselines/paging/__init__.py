"""Paging with one-bit predictions: a fast simulator, the algorithms, the predictions and the proved bounds.

>>> from mallocgame.baselines.paging import from_ids, study
>>> trace = from_ids([7, 0, 1, 2, 0, 3, 0, 4, 2, 3, 0, 3, 2, 1, 2, 0, 1, 7, 0, 1])
>>> {row.policy: row.faults for row in study(trace, ["lru", "fifo", "fwa0"], [3])}
{'opt': 9, 'lru': 12, 'fifo': 15, 'fwa0': 9}
"""

from mallocgame.baselines.paging import policies
from mallocgame.baselines.paging.bits import (
    Errors,
    as_bits,
    count_errors,
    discard_bits,
    flip,
    flip_adversarial,
    last_in_phase,
    phase_bits,
)
from mallocgame.baselines.paging.bridge import TiledProgram, tile_program
from mallocgame.baselines.paging.closure import CLOSURES, close_bits, with_prompts
from mallocgame.baselines.paging.combine import combine, policy_from_name
from mallocgame.baselines.paging.engine import Job, Recording, Result, check_events, record, simulate
from mallocgame.baselines.paging.generators import chat, cyclic, kv_cache, moe_decode, zipf
from mallocgame.baselines.paging.hints import HintSource
from mallocgame.baselines.paging.policy import Guarantee, Hint, Policy, get_policy, harmonic, policy_names, register
from mallocgame.baselines.paging.predict.arrivals import pleco, popu, threshold_bits
from mallocgame.baselines.paging.predict.drift import WatchedBits, watched_bits
from mallocgame.baselines.paging.predict.learned import LearnedBits, learned_bits
from mallocgame.baselines.paging.predict.online import online_bits
from mallocgame.baselines.paging.predict.predictor import Predictor
from mallocgame.baselines.paging.predict.shadow import SHADOWS, shadow_bits
from mallocgame.baselines.paging.readers import (
    ReadOptions,
    read_csv,
    read_mooncake,
    read_oracle,
    read_prompts,
    read_sized,
    read_text,
    read_trace,
)
from mallocgame.baselines.paging.selection import Selected, choose_one_bit
from mallocgame.baselines.paging.sized import AccessTrace, SizedResult, reads_only, simulate_sized
from mallocgame.baselines.paging.study import (
    ARRIVAL,
    CLASSICAL,
    ONE_BIT,
    PROMPT,
    Row,
    flip_study,
    parse_sizes,
    point_study,
    study,
)
from mallocgame.baselines.paging.tiers import Tier, TiersResult, simulate_tiers
from mallocgame.baselines.paging.trace import Context, PageTrace, Prompts, from_chunks, from_ids, from_keys, next_use

__all__ = [
    "ARRIVAL",
    "CLASSICAL",
    "CLOSURES",
    "ONE_BIT",
    "PROMPT",
    "SHADOWS",
    "AccessTrace",
    "Context",
    "Errors",
    "Guarantee",
    "Hint",
    "HintSource",
    "Job",
    "LearnedBits",
    "PageTrace",
    "Policy",
    "Predictor",
    "Prompts",
    "ReadOptions",
    "Recording",
    "Result",
    "Row",
    "Selected",
    "SizedResult",
    "Tier",
    "TiersResult",
    "TiledProgram",
    "WatchedBits",
    "as_bits",
    "chat",
    "check_events",
    "choose_one_bit",
    "close_bits",
    "combine",
    "count_errors",
    "cyclic",
    "discard_bits",
    "flip",
    "flip_adversarial",
    "flip_study",
    "from_chunks",
    "from_ids",
    "from_keys",
    "get_policy",
    "harmonic",
    "kv_cache",
    "last_in_phase",
    "learned_bits",
    "moe_decode",
    "next_use",
    "online_bits",
    "parse_sizes",
    "phase_bits",
    "pleco",
    "point_study",
    "policies",
    "policy_from_name",
    "policy_names",
    "popu",
    "read_csv",
    "read_mooncake",
    "read_oracle",
    "read_prompts",
    "read_sized",
    "read_text",
    "read_trace",
    "reads_only",
    "record",
    "register",
    "shadow_bits",
    "simulate",
    "simulate_sized",
    "simulate_tiers",
    "study",
    "threshold_bits",
    "tile_program",
    "watched_bits",
    "with_prompts",
    "zipf",
]
