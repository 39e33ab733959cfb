"""Compilations to the end: how long one takes is learned beside the search, and the search ends in time for it.

A compilation that is ended after memory-space assignment misses what is illegal only later. The default program is
compiled to its end in the background, with low priority, while the search goes on; then it is known how long before
the deadline the best options have to be there. Where there is no time for that, and evaluations began with the
scheduled module, what is best is at least compiled from the program on until memory is assigned.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from mallocgame.workloads.compiler_loop.settings import Say
from mallocgame.workloads.compiler_loop.verify import ANOTHER_PROGRAM, Evaluation, FullCompile, Target
from mallocgame.workloads.xla.compiler import Options

USUAL_RATIO = 9.0  # a full compilation over one that is ended early: median of docs/compiler_loop.md
SAFETY = 1.25
SHARE_TO_REPEAT = 0.1  # of all the time, for an evaluation from the program on; where it takes more there is none
PATIENCE_TO_REPEAT = 2.0  # times as long as expected, where the figure is a guess without it
GUESS = "its judged time is a guess: compiling it from the program on failed"
OTHERWISE = "from the program on the compiler does otherwise"
LARGEST_SHARE = 0.5  # of the time from the default compilation on, for the check; where it takes more there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Which of the candidates stands after the check. ``index`` is their number if all were refused."""

    index: int
    done: FullCompile | None  # of that candidate; None: not compiled
    why_not: str = ""  # it was not compiled to its end; empty: it was
    stands: Evaluation | None = None  # what the compiler does with it, from the program on where that was looked at


class FinalCheck:
    """The end of a run of ``seconds``, which began at ``begin`` on ``time.monotonic``'s clock.

    A context manager: what compiles in the background is stopped at its end.
    """

    def __init__(self, target: Target, begin: float, seconds: float, wanted: bool = True) -> None:
        self._target, self._begin, self._seconds, self._wanted = target, begin, seconds, wanted
        self._stop = threading.Event()
        self._started = float("inf")
        self._thread: threading.Thread | None = None
        self.default: FullCompile | None = None  # as soon as it is known
        self.best: Evaluation | None = None  # what will be checked, as far as is known
        self._guesses: list[Evaluation] = []  # what could not be repeated, though its figure needs it

    def __enter__(self) -> "FinalCheck":
        if self._wanted:
            self._thread = threading.Thread(target=self._compile_default, daemon=True)
            self._started = time.monotonic()
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _compile_default(self) -> None:
        found = self._target.compile_fully({}, timeout_seconds=self._seconds, background=True, stop=self._stop)
        if not found.error:
            self.default = found

    @property
    def deadline(self) -> float:
        """When the user wants to have the result."""
        return self._begin + self._seconds

    def estimated_seconds(self) -> float:
        """Return how long a full compilation will take: measured, or what is known so far."""
        if self.default is not None:
            return self.default.compile_seconds
        running = self._thread is not None and self._thread.is_alive()
        so_far = time.monotonic() - self._started if running else 0.0
        return max(so_far, USUAL_RATIO * self._target.usual_seconds)

    def is_affordable(self) -> bool:
        """Whether the check leaves the search a large enough part of what the default compilation has left."""
        left = self._seconds - max(min(self._started, time.monotonic()) - self._begin, 0.0)
        return self._wanted and SAFETY * self.estimated_seconds() <= LARGEST_SHARE * left

    def search_deadline(self) -> float:
        """Return when the search has to end, as far as is known now."""
        reserve = self.estimated_seconds() if self.is_affordable() else 0.0
        if not reserve or self._target.is_near:
            reserve += self._seconds_to_repeat()
        return self.deadline - SAFETY * reserve

    def _seconds_to_repeat(self) -> float:
        """Return how long it takes to repeat the best from the program on; 0: that is not needed, or too long."""
        whole = self._target.seconds_to_repeat(self.best)
        return whole if self._target.is_near or SAFETY * whole <= SHARE_TO_REPEAT * self._seconds else 0.0

    def check(self, candidates: Sequence[Evaluation], say: Say) -> Checked:
        """Compile the best candidate to its end; where the compiler refuses it, or does otherwise, ever worse ones.

        A compilation that is too slow, or dies, is no refusal: the candidate stands, unchecked.
        """
        at, gap = 0, 1
        while at < len(candidates):
            reason, checked = self._check_one(at, candidates[at], say)
            if not reason:
                return checked
            if reason == ANOTHER_PROGRAM:
                say(reason)
                break
            say(f"the compiler refuses this at its end: {reason[:200]}")
            at, gap = at + gap, 2 * gap
        return Checked(index=len(candidates), done=None)

    def _check_one(self, index: int, candidate: Evaluation, say: Say) -> tuple[str, Checked]:
        """Return why a candidate does not stand, empty if it does, and what is known of it then."""
        why_not = self._why_not()
        if why_not:
            reason, found = self._repeated(candidate, say)
            return reason, Checked(index=index, done=None, why_not=self._unsure(found, why_not), stands=found)
        self._stop.set()  # the default's has served its purpose
        say(f"compiling the best to its end, about {self.estimated_seconds():.0f} s")
        done = self._compile(candidate.options)
        if done.inconclusive:
            reason, found = self._repeated(candidate, say) if self._target.is_near else ("", candidate)
            return reason, Checked(index=index, done=None, why_not=self._unsure(found, done.error), stands=found)
        reason, found = done.error, candidate
        is_told = candidate.xla_seconds in done.xla_seconds and not self._target.is_near
        if not reason and self._target.scheduled and not is_told:
            reason, found = self._repeated(candidate, say)
        return reason, Checked(index=index, done=done, why_not=self._unsure(found), stands=found)

    def _unsure(self, found: Evaluation, why_not: str = "") -> str:
        """Return why it was not compiled to its end, and whether its figure is a guess."""
        return "; ".join(text for text in (why_not, GUESS if found in self._guesses else "") if text)

    def _why_not(self) -> str:
        """Return why there is no compilation to the end, empty if there is."""
        expected, left = self.estimated_seconds(), self.deadline - time.monotonic()
        if self._wanted and left < min(expected, LARGEST_SHARE * self._seconds):
            return f"it takes about {expected:.0f} s, {max(left, 0):.0f} left"
        return "" if self._wanted else "not asked for"

    def _repeated(self, candidate: Evaluation, say: Say) -> tuple[str, Evaluation]:
        """Compile from the program on until memory is assigned.

        Returns:
            why a candidate does not stand, empty if it does; and what the compiler does then.
        """
        needed, deadline = self._target.seconds_to_repeat(candidate), self.deadline
        if self._target.is_near:  # its figure is a guess until then
            deadline = max(deadline, time.monotonic() + PATIENCE_TO_REPEAT * needed)
        if self._target.scheduled is None or deadline - time.monotonic() < needed:
            return "", candidate
        say("compiling the best once more, from the program on")
        found = self._target.repeat(candidate, deadline=deadline)
        if found.inconclusive and self._target.is_near:
            self._guesses.append(candidate)
        if found.inconclusive or candidate.agrees_with(found):
            return "", candidate
        is_slower = found.mapping is None or found.judged_seconds >= self._target.default().judged_seconds
        return (found.error or OTHERWISE) if is_slower else "", found

    def _compile(self, options: Options) -> FullCompile:
        done = self._target.compile_fully(options, timeout_seconds=max(self.deadline - time.monotonic(), 0.1))
        if done.inconclusive and self.deadline - time.monotonic() > self.estimated_seconds():
            done = self._target.compile_fully(options, timeout_seconds=self.deadline - time.monotonic())
        return done
