"""What a signal does where Python cannot hear it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

DEAF = """
import hashlib, os, tempfile, threading
from mallocgame import system
from mallocgame.cli import signals

signals.catch_signals()
signals._STUCK_SECONDS = {stuck}
folder = tempfile.TemporaryDirectory(dir={folder!r})
try:
    with system.stand_by():
        threading.Timer(0.3, os.kill, (os.getpid(), {number})).start()
        hashlib.pbkdf2_hmac("sha256", b"x", b"x", {rounds})  # gives no signal to Python until it is done
        print("done", flush=True)
except KeyboardInterrupt:
    print("met", flush=True)
"""

IMPORT = """
import _imp
from importlib.machinery import ExtensionFileLoader, ModuleSpec
_imp.create_dynamic = lambda spec: python_called_by_native_code()
def native():
    ExtensionFileLoader("native", "/native.so").create_module(ModuleSpec("native", None))
"""
KERNEL = """
import sys
import numba, numpy
native_kernel = numba.njit(lambda value: numpy.full(2, value))
native_kernel(1)
def poke(frame, event, argument):
    if frame.f_code.co_name == "{asked}":
        sys.setprofile(None)
        python_called_by_native_code()
def native():
    sys.setprofile(poke)
    native_kernel({value})
"""
IN_NATIVE = """
import os, time
from mallocgame.cli import signals

def python_called_by_native_code():
    os.kill(os.getpid(), {number})
    time.sleep(0.2)
    print("made", flush=True)

{code}
signals.catch_signals()
try:
    native()
    time.sleep(20)
except KeyboardInterrupt:
    print("met", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "code",
    [
        IMPORT,
        KERNEL.format(asked="typeof_pyval", value=1.5),  # the type of an argument, met for the first time
        KERNEL.format(asked="_numba_unpickle", value=2),  # the type of an array that is returned
    ],
)
def test_a_signal_waits_where_native_code_would_crash_or_lose_it(number: signal.Signals, code: str) -> None:
    code = IN_NATIVE.format(number=int(number), code=code)
    run = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=50, check=True)
    assert (run.stdout, run.stderr) == ("made\nmet\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("is_met", [True, False])
def test_a_library_that_computes_cannot_keep_a_signal_for_long(
    tmp_path: Path, number: signal.Signals, is_met: bool
) -> None:
    stuck, rounds = (60, 2_000_000) if is_met else (0.1, 2_000_000_000)
    code = DEAF.format(folder=str(tmp_path), stuck=stuck, rounds=rounds, number=int(number))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", code], text=True, **pipes)  # type: ignore[call-overload]
    said, told = process.communicate(timeout=50)
    word = "interrupted" if number == signal.SIGINT else "terminated"
    wanted = (0, "met\n", "") if is_met else (128 + number, "", f"mallocgame: {word}\n")
    assert (process.returncode, said, told) == wanted
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_is_lost_ends_the_process_all_the_same(tmp_path: Path) -> None:
    """A callback of a library swallowed it, and the library computes on."""
    lost = "    try:\n            import time; time.sleep(20)\n        except KeyboardInterrupt:\n            pass\n"
    code = DEAF.replace("        hashlib", f"    {lost}        hashlib")
    code = code.format(folder=str(tmp_path), stuck=0.1, rounds=2_000_000_000, number=int(signal.SIGTERM))
    run = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=50, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (128 + signal.SIGTERM, "", "mallocgame: terminated\n")
    assert list(tmp_path.iterdir()) == []


def test_the_terminals_cursor_is_shown_again(tmp_path: Path) -> None:
    """A bar has hidden it, and nobody unwinds."""
    code = DEAF.format(folder=str(tmp_path), stuck=0.1, rounds=2_000_000_000, number=int(signal.SIGTERM))
    ours, theirs = os.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], stderr=theirs)
    os.close(theirs)
    assert process.wait(50) == 128 + signal.SIGTERM
    assert os.read(ours, 100) == b"\x1b[?25hmallocgame: terminated\r\n"
    os.close(ours)
