"""Compilations that die, hang or flood their log are ended and reported."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from mallocgame.workloads.compiler_loop.verify import last_words
from mallocgame.workloads.program_reference import ProgramReference
from mallocgame.workloads.xla import compiler
from mallocgame.workloads.xla.compiler import Compilation, CompileRequest, _Follow

PROGRAM = ProgramReference(module="any", name="program")


def follow(code: str, seconds: float) -> Compilation:
    reader, writer = os.pipe()
    child = subprocess.Popen([sys.executable, "-c", code], stdout=writer, stderr=subprocess.DEVNULL)
    os.close(writer)
    try:
        found = _Follow(reader, CompileRequest(reference=PROGRAM, chip="v5e", timeout_seconds=seconds))
        found.read()
    finally:
        os.close(reader)
        child.kill()
        child.wait(timeout=20)
    return Compilation(
        log=found.text,
        hlo="",
        seconds=0.0,
        finished=found.finished,
        error=found.error,
        inconclusive=found.inconclusive,
    )


def test_flood_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "MAX_LOG_BYTES", 1_000_000)
    found = follow("while True: print('spam ' * 50)", 60.0)
    assert found.inconclusive
    assert "bytes of log, expected at most 1000000" in last_words(found)
    assert "spam" in last_words(found)


def test_child_that_hangs_is_ended() -> None:
    found = follow("import time; print('here it stops', flush=True); time.sleep(600)", 6.0)
    assert found.inconclusive
    assert "did not finish within 6 s" in last_words(found)
    assert "here it stops" in last_words(found)


def test_child_that_dies_is_told_apart() -> None:
    found = follow("import os; print('last line', flush=True); os._exit(9)", 60.0)
    assert "ended without a word" in last_words(found)
    assert "last line" in last_words(found)


def test_a_fault_that_the_compiler_finds_in_itself_is_its_answer() -> None:
    line = "F1128 02:03:04.567890   23569 algorithm.cc:8573] Check failed: inconsistent required assignment"
    found = follow(f"import os; print('{line}', flush=True); os._exit(9)", 60.0)
    assert not found.inconclusive
    assert last_words(found).endswith("gave up: algorithm.cc:8573] Check failed: inconsistent required assignment")


@pytest.mark.parametrize("says", [False, True])
def test_an_interrupt_while_the_warm_process_starts_removes_its_folder_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: bool
) -> None:
    mine, own = tmp_path / "here" / "mine.txt", tmp_path / "mallocgame-compile-x"
    for file in (mine, own / "locked"):
        file.parent.mkdir()
        file.touch()
    monkeypatch.chdir(mine.parent)
    word = f"print({json.dumps({'folder': str(own)})!r}, flush=True); " if says else ""
    deaf = subprocess.Popen(
        [sys.executable, "-c", f"import time; {word}time.sleep(600)"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert deaf.stdout is not None
    if says:  # but the interrupt comes before it is read
        select.select([deaf.stdout], [], [])
    answers = iter([KeyboardInterrupt()])
    read = deaf.stdout.readline
    monkeypatch.setattr(compiler.subprocess, "Popen", lambda *_, **__: deaf)
    monkeypatch.setattr(compiler, "END_SECONDS", 0.01)
    monkeypatch.setattr(deaf, "stdout", Mock(close=deaf.stdout.close, readline=lambda: _raise(answers) or read()))
    with pytest.raises(KeyboardInterrupt), compiler.Compiler() as warm:
        warm.compile(CompileRequest(reference=PROGRAM, chip="v5e"))
    assert deaf.returncode
    assert mine.exists()
    assert own.exists() is not says


def _raise(errors: Iterator[BaseException]) -> None:
    """Raise the next, if there is one."""
    for error in errors:
        raise error
