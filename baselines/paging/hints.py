"""Where a policy's hints come from: one name ("lfd", "learned", "popu", ...) to the array that its kind needs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mallocgame.baselines.paging.bits import as_bits, discard_bits, exact_bits, flip, flip_adversarial
from mallocgame.baselines.paging.closure import best_closure, close_bits, with_prompts
from mallocgame.baselines.paging.policy import Hint, Hints, Policy
from mallocgame.baselines.paging.predict.arrivals import learned_arrivals, pleco, popu, threshold_bits
from mallocgame.baselines.paging.predict.drift import watched_bits
from mallocgame.baselines.paging.predict.learned import learned_bits, train_requests
from mallocgame.baselines.paging.predict.online import online_bits
from mallocgame.baselines.paging.predict.predictor import Predictor
from mallocgame.baselines.paging.predict.shadow import shadow_bits
from mallocgame.baselines.paging.structures import U8
from mallocgame.baselines.paging.trace import PageTrace, next_use
from mallocgame.errors import InputError, TraceError
from mallocgame.files import read_bytes

AUTO = "auto"  # a policy: the one-bit policy that is best on the training part, see selection.py
SOURCES = (
    "lfd", "watched", "learned", "online", "model:FILE", "shadow:POLICY", "popu", "pleco", "zeros", "ones",
    "teacher:POLICY", "file:PATH",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class HintSource:
    """What the policies are told.

    Attributes:
        bits: one of SOURCES. "lfd" gives every policy the exact truth of its kind: discard bits of the optimum, phase
            bits, next arrivals. "popu" and "pleco" give arrivals, and bits by a threshold on them.
        flip_zeros: share of the 0s turned into 1s.
        flip_ones: share of the 1s turned into 0s.
        adversarial: put the same number of errors where they should hurt, not at random.
        threshold: of "popu" and "pleco", in units of k requests.
        train_share: of "learned"; and what "auto" policies and closures are decided on.
        refit_requests: of "watched", see drift.py.
        closure: of the bits over prompts, see closure.py; "auto" takes the best on the first ``train_share`` of the
            requests.
        seed: of the random flips.
    """

    bits: str = "lfd"
    flip_zeros: float = 0.0
    flip_ones: float = 0.0
    adversarial: bool = False
    threshold: float = 1.0
    train_share: float = 0.5
    refit_requests: int | None = None
    closure: str = "none"
    seed: int = 0

    def judge_from(self, trace: PageTrace, names: Sequence[str] = ()) -> int:
        """First request that counts: what was learned or chosen is judged on what it has not seen."""
        trained = self.bits == "learned" or AUTO in names or (self.closure == "auto" and trace.prompts is not None)
        return train_requests(trace, self.train_share) if trained else 0

    def hints(
        self, trace: PageTrace, num_frames: int, policy: Policy, *, memo: dict[object, U8] | None = None
    ) -> Hints | None:
        """Return the hints of ``policy`` at cache size ``num_frames``, None where it needs none.

        ``memo`` keeps bits between calls for one trace.

        Raises:
            InputError: no such source, or it cannot make hints of the kind that the policy needs.
        """
        if policy.hint is Hint.NONE:
            return None
        if policy.hint is Hint.NEXT_USE:
            return next_use(trace)
        if policy.hint is Hint.ARRIVAL:
            return self._arrivals(trace, policy)
        if policy.hint is Hint.PROMPT:
            return with_prompts(trace, None)
        kind = Hint.PHASE if policy.hint is Hint.PHASE else Hint.DISCARD
        memo = {} if memo is None else memo
        if (num_frames, kind) not in memo:
            memo[num_frames, kind] = self._wrong(trace, self._bits(trace, num_frames, kind))
        bits = memo[num_frames, kind]
        if kind is Hint.DISCARD:
            bits = close_bits(trace, bits, self._closure(trace, num_frames, bits, policy))
        return with_prompts(trace, bits) if policy.hint is Hint.PROMPT_DISCARD else bits

    def discard_bits(self, trace: PageTrace, num_frames: int, memo: dict[object, U8]) -> U8:
        """Return the discard bits before any closure; ``memo`` keeps them between calls for one trace."""
        if (num_frames, Hint.DISCARD) not in memo:
            memo[num_frames, Hint.DISCARD] = self._wrong(trace, self._bits(trace, num_frames, Hint.DISCARD))
        return memo[num_frames, Hint.DISCARD]

    def _wrong(self, trace: PageTrace, bits: U8) -> U8:
        if self.adversarial:
            return flip_adversarial(bits, next_use(trace), self.flip_zeros, self.flip_ones)
        if self.flip_zeros or self.flip_ones:
            return flip(bits, self.flip_zeros, self.flip_ones, seed=self.seed)
        return bits

    def _closure(self, trace: PageTrace, num_frames: int, bits: U8, policy: Policy) -> str:
        if self.closure != "auto" or trace.prompts is None:
            return "none" if self.closure == "auto" else self.closure
        seen = train_requests(trace, self.train_share)
        return best_closure(trace[:seen], num_frames, bits[:seen], policy)

    def _arrivals(self, trace: PageTrace, policy: Policy) -> Hints:
        if self.bits == "lfd":
            return next_use(trace).astype(np.int64)
        if self.bits in ("popu", "pleco"):
            return popu(trace) if self.bits == "popu" else pleco(trace)
        if self.bits == "learned":
            return learned_arrivals(trace, train_requests(trace, self.train_share))
        raise InputError(
            f"policy {policy.name!r} needs predicted arrivals: use bits 'lfd', 'learned', 'popu' or 'pleco'"
        )

    def _bits(self, trace: PageTrace, num_frames: int, hint: Hint) -> U8:
        kind, _, argument = self.bits.partition(":")
        if kind == "lfd":
            return exact_bits(trace, num_frames, hint)
        if kind == "learned":
            return learned_bits(trace, num_frames, hint, train_share=self.train_share).bits
        if kind == "watched":
            return watched_bits(trace, num_frames, refit_requests=self.refit_requests).bits
        if kind == "model" and argument:
            return Predictor.load(argument).bits(trace)
        if kind == "shadow":
            return shadow_bits(trace, num_frames, argument)
        if kind == "online":
            return online_bits(trace, num_frames)
        if kind in ("popu", "pleco"):
            return threshold_bits(popu(trace) if kind == "popu" else pleco(trace), num_frames, self.threshold)
        if kind in ("zeros", "ones"):
            return np.full(trace.num_requests, int(kind == "ones"), np.uint8)
        if kind == "teacher" and argument:
            return discard_bits(trace, num_frames, teacher=argument)
        if kind == "file" and argument:
            return read_bits(argument, trace.num_requests)
        raise InputError(f"no bits called {self.bits!r}; there are: {', '.join(SOURCES)}")


def read_bits(path: str, num_requests: int) -> U8:
    """Read one bit a request from a text file of 0s and 1s; white space between them is ignored."""
    data = np.frombuffer(read_bytes(path, max_bytes=2**36), np.uint8)
    symbols = data[~np.isin(data, np.frombuffer(b" \t\r\n,", np.uint8))]
    if not np.isin(symbols, (48, 49)).all():
        raise TraceError(path, None, f"expected 0s and 1s, got {chr(int(symbols[~np.isin(symbols, (48, 49))][0]))!r}")
    return as_bits(symbols - 48, num_requests)
