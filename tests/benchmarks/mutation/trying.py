"""Run the tests that reach a changed line, in a fork of a process that has imported them already.

A change inside a plain function is made by giving the living function the changed code, first with few examples of each
property, then with more. Any other (constants, defaults, decorators), and, where that is asked for, any that this did
not catch (something may have been kept from before the change), is tried in a copy of the checkout by a process that
imports everything anew.
"""

import hashlib
import inspect
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
from hypothesis import Phase, settings

from tests.benchmarks.mutation.changes import Mutant
from tests.paths import ROOT

MOST_CALLS = 30  # of a function in a test, whose lines are noted: that is slow
FEW_EXAMPLES = 30  # of a property, until a change has survived them
MORE_EXAMPLES = 300  # then
ALL_EXAMPLES = 10**6
QUICK_SECONDS = 2.0  # tests that are run before the forks, to have imported and compiled what they need


@dataclass(frozen=True, slots=True)
class Target:
    """A module and the tests that answer for it; ``environment`` is set for them (a kernel runs as Python, say)."""

    module: str
    tests: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def import_name(self) -> str:
        """The name by which the module is imported."""
        parts = Path(self.module).with_suffix("").parts
        return ".".join(parts if parts[0] == "mallocgame" else ("mallocgame", *parts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a mutant ended: "caught", "slow" (an endless loop, say), "survived" or "unreached"."""

    result: str
    by: str = ""  # the test that failed


@dataclass
class Coverage:
    """Which tests run which lines of the module, and how long they take."""

    lines: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))  # seen in the first calls of a test
    functions: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    seconds: dict[str, float] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)  # changes of this module that a test has caught

    def tests(self, mutant: Mutant) -> list[str]:
        """Return the tests that reach a mutant's function.

        Those that reach its line come first, and among them what catches most changes a second.
        """
        line: Collection[str] = self.lines.get(mutant.line, set())
        found: Collection[str] = self.seconds if mutant.function is None else self.functions.get(mutant.function, set())
        return sorted(found, key=lambda test: (test not in line, -(self.kills[test] + 1) / self.seconds[test]))


class _Plugin:
    """Chooses and orders tests, and remembers which one failed."""

    def __init__(self, wanted: Sequence[str] | None, *, most_examples: int = FEW_EXAMPLES) -> None:
        self.wanted = None if wanted is None else {test: rank for rank, test in enumerate(wanted)}
        self.most_examples = most_examples
        self.failed = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        most = self.most_examples
        fewer = property(lambda one: min(one._max_examples, most))
        type.__setattr__(settings, "max_examples", fewer)  # of functions inside tests, too
        if self.wanted is not None:
            items[:] = sorted(
                (item for item in items if item.nodeid in self.wanted), key=lambda item: self.wanted[item.nodeid]
            )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed = self.failed or report.nodeid


class _Tracer(_Plugin):
    """Notes the lines of one file that each test runs."""

    def __init__(self, file: str) -> None:
        super().__init__(None)
        self.file, self.coverage, self.test = file, Coverage(), ""
        self.calls: Counter[CodeType] = Counter()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.test, begun = item.nodeid, time.perf_counter()
        self.calls.clear()
        sys.settrace(self._enter)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            self.coverage.seconds[item.nodeid] = time.perf_counter() - begun

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        code = frame.f_code
        if code.co_filename != self.file:
            return None
        self.calls[code] += 1
        if self.calls[code] > MOST_CALLS:
            return None
        self.coverage.functions[code.co_qualname.partition(".<locals>")[0]].add(self.test)
        return self._line

    def _line(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        self.coverage.lines[frame.f_lineno].add(self.test)
        return self._line


class Bench:
    """A target's tests, imported and run once in this process; ``attempt`` runs them with a mutant in a fork."""

    def __init__(self, target: Target, folder: Path, kills: Counter[str], *, thorough: bool = False) -> None:
        """Run the tests as they are.

        Args:
            kills: how many changes of this module each test has caught before.
            thorough: try what survives with all examples and everything imported anew.

        Raises:
            RuntimeError: they fail.
        """
        self.target, self.checkout, self.thorough = target, folder / "checkout", thorough
        ignored = shutil.ignore_patterns(".git", ".venv", "__pycache__", "*.nbc", "*.nbi", "results", ".hypothesis")
        shutil.copytree(ROOT, self.checkout, symlinks=True, ignore=ignored)
        os.environ.update(target.environment)
        os.environ["PYTHONPATH"] = str(ROOT)
        os.chdir(ROOT)
        _quick_hypothesis()
        known = _known_file(target)
        if known.exists():  # an earlier process ran them: here only the quick ones, for what they import and compile
            self.coverage, self.can_swap = _load(known)
            self.coverage.kills += kills
            quick = [test for test, seconds in self.coverage.seconds.items() if seconds < QUICK_SECONDS]
            _silently(lambda: _pytest(target.tests, _Plugin(quick)))
            return
        tracer = _Tracer(str(self._file(ROOT)))
        if _silently(lambda: _pytest(target.tests, tracer)) != 0:
            raise RuntimeError(f"{target.module}: its tests fail as they are: {tracer.failed}")
        self.coverage = tracer.coverage
        unchanged = self._fork(None, list(self.coverage.seconds), FEW_EXAMPLES, swap=True)
        if unchanged.result == "slow":
            raise RuntimeError(f"{target.module}: its tests hang in a fork (JAX has threads?)")
        self.can_swap = unchanged.result == "survived"
        _save(known, self.coverage, self.can_swap)
        self.coverage.kills += kills

    def attempt(self, mutant: Mutant) -> Outcome:
        """Return what becomes of a mutant."""
        tests = self.coverage.tests(mutant)
        if not tests:
            return Outcome(result="unreached")
        ways = [(FEW_EXAMPLES, True), (MORE_EXAMPLES, True)] if self.can_swap and mutant.function is not None else []
        if not ways or self.thorough:
            ways.append((ALL_EXAMPLES if self.thorough else MORE_EXAMPLES, False))
        for most_examples, swap in ways:
            found = self._fork(mutant, tests, most_examples, swap=swap)
            if found.result != "survived":
                break
        self.coverage.kills[found.by] += found.result == "caught"
        return found

    def _file(self, root: Path) -> Path:
        """Return the module's file as its code objects name it."""
        module = Path(self.target.module)
        return root / module if module.parts[0] == "mallocgame" else root / "mallocgame" / module

    def _fork(self, mutant: Mutant | None, tests: list[str], most_examples: int, *, swap: bool) -> Outcome:
        once = sum(self.coverage.seconds[test] for test in tests)
        limit = 15.0 + 5.0 * once * min(most_examples / FEW_EXAMPLES, 10.0) + (0.0 if swap else 30.0)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.close(read)
                os.setsid()
                code = self._in_child(mutant, _Plugin(tests, most_examples=most_examples), swap, write)
            finally:
                os._exit(code)
        os.close(write)
        code = _wait(child, limit)
        with os.fdopen(read, encoding="utf-8") as told:
            by = told.read() if code is not None else ""
        if code is None:
            return Outcome(result="slow")
        return Outcome(result="survived") if code == 0 else Outcome(result="caught", by=by)

    def _in_child(self, mutant: Mutant | None, plugin: _Plugin, swap: bool, write: int) -> int:
        if swap and mutant is not None:
            _swap(self.target, mutant, str(self._file(ROOT)))
        elif not swap:
            assert mutant is not None
            (self.checkout / self.target.module).write_text(mutant.source, encoding="utf-8")
            _forget_modules(self.checkout)
        assert plugin.wanted is not None
        files = sorted({test.partition("::")[0] for test in plugin.wanted})
        code = _silently(lambda: _pytest(files, plugin))
        os.write(write, plugin.failed.encode()[:1000])
        return code


def _known_file(target: Target) -> Path:
    """Return where the coverage of a target's tests, as they are, is kept between processes."""
    files = [ROOT / target.module, *(file for test in target.tests for file in _python_files(ROOT / test))]
    content = b"2".join((repr(target).encode(), *(file.read_bytes() for file in files)))
    stamp = hashlib.sha256(content).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"mallocgame-coverage-{os.getuid()}" / f"{target.import_name}-{stamp}.json"


def _python_files(place: Path) -> list[Path]:
    return sorted(place.rglob("*.py")) if place.is_dir() else [place]


def _save(path: Path, coverage: Coverage, can_swap: bool) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    lines = {line: sorted(tests) for line, tests in coverage.lines.items()}
    functions = {name: sorted(tests) for name, tests in coverage.functions.items()}
    kept = {"lines": lines, "functions": functions, "seconds": coverage.seconds, "can_swap": can_swap}
    path.write_text(json.dumps(kept), encoding="utf-8")


def _load(path: Path) -> tuple[Coverage, bool]:
    kept = json.loads(path.read_text(encoding="utf-8"))
    lines = defaultdict(set, {int(line): set(tests) for line, tests in kept["lines"].items()})
    functions = defaultdict(set, {name: set(tests) for name, tests in kept["functions"].items()})
    return Coverage(lines=lines, functions=functions, seconds=kept["seconds"]), kept["can_swap"]


def _swap(target: Target, mutant: Mutant, file: str) -> None:
    """Give a living function the changed code."""
    assert mutant.function is not None
    found: Any = sys.modules[target.import_name]
    holder = None
    for name in mutant.function.split("."):
        holder, found = found, inspect.getattr_static(found, name)
    found = getattr(found, "fget", None) or getattr(found, "__func__", found)
    function = inspect.unwrap(found)
    if not inspect.isfunction(function):
        raise TypeError(f"{holder}.{mutant.function} is no plain function")
    codes = {code.co_qualname: code for code in _codes(compile(mutant.source, file, "exec"))}
    function.__code__ = codes[mutant.function]


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            if constant.co_name != "<lambda>":
                yield from _codes(constant)


def _forget_modules(checkout: Path) -> None:
    """Have everything of ours imported again, from the checkout."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("mallocgame", "tests", "conftest")]:
        del sys.modules[name]
    sys.path[:] = [str(checkout), *(place for place in sys.path if place not in ("", str(ROOT)))]
    sys.path_importer_cache.clear()
    os.environ["PYTHONPATH"] = str(checkout)
    os.chdir(checkout)


def _quick_hypothesis() -> None:
    """The same examples each time, and none sought that is smaller once one has failed."""
    settings.register_profile(
        "mutants", derandomize=True, database=None, deadline=None, phases=[Phase.explicit, Phase.generate]
    )
    settings.load_profile("mutants")


def _pytest(tests: Sequence[str], plugin: _Plugin) -> int:
    options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--assert=plain"]
    return int(pytest.main([*options, *tests], plugins=[plugin]))


def _silently(run: Callable[[], int]) -> int:
    """Return what ``run`` returns, its output thrown away."""
    kept = [os.dup(stream) for stream in (1, 2)]
    null = os.open(os.devnull, os.O_RDWR)
    try:
        for stream in range(3):
            os.dup2(null, stream)
        return run()
    finally:
        for stream, old in zip((1, 2), kept, strict=True):
            os.dup2(old, stream)
            os.close(old)
        os.close(null)


def _wait(child: int, limit: float) -> int | None:
    """Return the exit code of a child, None where it had to be killed."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None
