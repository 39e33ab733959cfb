"""Compiled functions: a cache that notices changes in called ones, and kernels that count no references."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
import pytest

from mallocgame.jit import jit, kernel
from tests.paths import ROOT

INNER = "from mallocgame.jit import jit\n\n@jit\ndef inner(x: int) -> int:\n    return x + {}\n"
OUTER = """import inner_kernel
from mallocgame.jit import jit

@jit
def outer(x: int) -> int:
    return inner_kernel.inner(x)
"""


def test_a_change_in_a_called_kernels_file_is_seen(tmp_path: Path) -> None:
    (tmp_path / "outer_kernel.py").write_text(OUTER)
    environment = dict(os.environ, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    command = [sys.executable, "-c", "import outer_kernel; print(outer_kernel.outer(1))"]
    for added in (1, 20, 300):
        (tmp_path / "inner_kernel.py").write_text(INNER.format(added))
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert int(answer.stdout) == 1 + added


class Pair(NamedTuple):
    table: np.ndarray
    names: np.ndarray


@kernel
def sum_of_row(pair: Pair, row: int) -> float:
    total = 0.0
    for value in pair.table[row]:
        total += value
    return total + float(pair.names[row])


@jit
def sum_of_rows(table: np.ndarray, names: np.ndarray) -> float:
    doubled = 2.0 * table
    total = 0.0
    for row in range(len(table)):
        total += sum_of_row(Pair(doubled, names), row)
    return total


def test_kernels_take_arrays_from_python_and_from_jit_functions() -> None:
    table, names = np.arange(12.0).reshape(3, 4), np.array([100, 200, 300])
    pair = Pair(table, names)
    before = sys.getrefcount(table), sys.getrefcount(names)
    for _ in range(50):
        assert sum_of_row(pair, 1) == 4 + 5 + 6 + 7 + 200
        assert sum_of_rows(table, names) == 2 * 66 + 600
    assert (sys.getrefcount(table), sys.getrefcount(names)) == before


def test_a_kernel_that_allocates_is_refused() -> None:
    @kernel
    def allocates(n: int) -> float:
        return float(np.zeros(n).sum())

    with pytest.raises(numba.core.errors.NumbaError):
        allocates(3)
