"""Functions in a child: their answers and errors come back, the limit holds, nothing is left behind."""

import os
import subprocess
import sys
import time

import pytest

from mallocgame.baselines import native


def test_the_answer_comes_back_and_the_child_is_used_again() -> None:
    pids = {native.call(os.getpid, seconds=60.0) for _ in range(2)}
    assert len(pids) == 1
    assert os.getpid() not in pids


def test_an_error_comes_back_with_its_traceback() -> None:
    with pytest.raises(native.ChildError, match="ZeroDivisionError"):
        native.call(divmod, 1, 0, seconds=60.0)


def test_a_limit_ends_the_child() -> None:
    native.start()
    begun = time.monotonic()
    assert native.call(time.sleep, 60.0, seconds=0.2) is None
    assert time.monotonic() - begun < 20.0
    assert native.call(divmod, 7, 2, seconds=60.0) == (3, 1)


def test_a_stop_ends_it_too_and_no_time_starts_nothing() -> None:
    asked = iter([False, False, True, True, True])
    assert native.call(time.sleep, 60.0, seconds=60.0, stop=lambda: next(asked)) is None
    assert native.call(divmod, 7, 2, seconds=0.0) is None


def test_what_libraries_print_never_reaches_standard_output() -> None:
    script = "import os; from mallocgame.baselines import native; native.call(os.system, 'echo noise', seconds=60)"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout == ""


def test_children_end_with_their_parent() -> None:
    script = (
        "import os, time; from mallocgame.baselines import native;"
        "print(native.call(os.getpid, seconds=60), flush=True);"
        "native.call(time.sleep, 60, seconds=60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    limit = time.monotonic() + 20.0
    while os.path.exists(f"/proc/{pid}/stat") and time.monotonic() < limit:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                break
        time.sleep(0.05)
    else:
        assert not os.path.exists(f"/proc/{pid}/stat")
