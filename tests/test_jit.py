"""Compiled functions: a cache that notices changes in called ones, and kernels that count no references."""

import errno
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
import pytest
from numba.core.caching import _CacheLocator

from mallocgame.jit import jit, kernel, part
from tests.paths import ROOT

INNER = "from mallocgame.jit import jit\n\n@jit\ndef inner(x: int) -> int:\n    return x + {}\n"
OUTER = """import inner_kernel
from mallocgame.jit import jit

@jit
def outer(x: int) -> int:
    return inner_kernel.inner(x)
"""
COLUMNS = "from enum import IntEnum\n\nclass Columns(IntEnum):\n    SIZE = {}\n"
READING = """import numpy as np
from columns import Columns
from mallocgame.jit import jit

@jit
def read(row: np.ndarray) -> int:
    return row[Columns.SIZE]
"""


def test_a_change_in_a_called_kernels_file_is_seen(tmp_path: Path) -> None:
    (tmp_path / "outer_kernel.py").write_text(OUTER)
    environment = dict(os.environ, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    command = [sys.executable, "-c", "import outer_kernel; print(outer_kernel.outer(1))"]
    for added in (1, 20, 300):
        (tmp_path / "inner_kernel.py").write_text(INNER.format(added))
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert int(answer.stdout) == 1 + added


def test_a_change_in_the_file_of_a_class_of_columns_is_seen(tmp_path: Path) -> None:
    """A kernel that kept the old columns would read, and write, past the end of its arrays."""
    (tmp_path / "reading_kernel.py").write_text(READING)
    environment = dict(os.environ, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    command = [sys.executable, "-c", "import numpy, reading_kernel as k; print(k.read(numpy.arange(9)))"]
    for column in (1, 7):
        (tmp_path / "columns.py").write_text(
            f"from enum import IntEnum\nclass Columns(IntEnum):\n    SIZE = {column}\n"
        )
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert int(answer.stdout) == column


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


WARM = """import sys
from mallocgame.jit import warm_up
import inner_kernel
warm_up("inner", lambda: inner_kernel.inner(1))
warm_up("inner", lambda: sys.exit("called twice"))
print(inner_kernel.inner(1))
"""


def warm(folder: Path, **environment: str) -> tuple[str, str]:
    """Run ``WARM`` in ``folder`` and return what it says on stdout and stderr."""
    (folder / "inner_kernel.py").write_text(INNER.format(7))
    (folder / "warm.py").write_text(WARM)
    everything = dict(os.environ, PYTHONPATH=f"{folder}{os.pathsep}{ROOT}", **environment)
    answer = subprocess.run(
        [sys.executable, "warm.py"], cwd=folder, env=everything, capture_output=True, text=True, check=True
    )
    return answer.stdout, answer.stderr


def test_warm_up_says_so_only_when_it_compiles(tmp_path: Path) -> None:
    assert warm(tmp_path) == ("8\n", "compiling kernels, once: inner ...\n")
    assert warm(tmp_path) == ("8\n", "")


def test_without_a_folder_of_the_users_a_private_temporary_one_holds_the_cache(tmp_path: Path) -> None:
    nowhere = tmp_path / "file"
    nowhere.write_text("no folder can be made below a file, whoever asks")
    module = tmp_path / "read_only"
    module.mkdir()
    (module / "__pycache__").write_text("in the way")
    private = tmp_path / f"mallocgame-kernels-{os.getuid()}"
    places = {name: str(nowhere) for name in ("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR")} | {"TMPDIR": str(tmp_path)}
    for line in ("compiling kernels, once: inner ...\n", ""):
        stdout, stderr = warm(module, **places)
        assert stdout == "8\n"
        assert stderr.startswith(f"mallocgame: no other folder can be written: kernels are cached in {private} (")
        assert stderr.partition("\n")[2] == line
    assert private.stat().st_mode & 0o777 == 0o700
    private.chmod(0o777)  # others could have put their code there
    stdout, stderr = warm(module, **places)
    assert stdout == "8\n"
    warning, line = stderr.splitlines()
    assert warning.startswith("mallocgame: no folder for the kernel cache")
    assert line.startswith("compiling kernels")


def test_what_was_compiled_beside_a_source_that_is_read_only_now_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def imported() -> Any:
        sys.modules.pop("installed_kernel", None)
        return importlib.import_module("installed_kernel").inner

    (tmp_path / "installed_kernel.py").write_text(INNER.format(3))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("numba.config.CACHE_DIR", "")
    assert imported()(1) == 4
    ensure = _CacheLocator.ensure_cache_path

    def ensure_elsewhere(self: Any) -> None:
        if str(self.get_cache_path()).startswith(str(tmp_path / "__pycache__")):
            raise PermissionError
        ensure(self)

    monkeypatch.setattr(_CacheLocator, "ensure_cache_path", ensure_elsewhere)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    inner = imported()
    assert inner(1) == 4
    assert sum(inner.stats.cache_hits.values()) == 1
    assert inner(1.5) == 4.5  # another type: compiled, and kept in the user's folder
    assert [path.suffix for path in sorted((tmp_path / "home" / "mallocgame").rglob("installed_kernel*"))] == [
        ".nbc",
        ".nbi",
    ]


def test_a_full_disk_costs_the_cache_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("mallocgame.jit._said", set())
    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile._save_data", full)
    for number in range(2):
        (tmp_path / f"full{number}.py").write_text(INNER.format(number))
        monkeypatch.syspath_prepend(tmp_path)
        inner = importlib.import_module(f"full{number}").inner
        assert inner(1) == 1 + number
        assert not list(tmp_path.rglob(f"full{number}*.nbi"))  # it would name code that is not there
    assert capsys.readouterr().err.count("cannot be written") == 1


def test_ctrl_c_while_llvm_hands_its_code_over_costs_the_cache_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_code(*_: object) -> None:
        raise RuntimeError("no compiled object yet for <Library>")

    monkeypatch.setattr("numba.core.codegen.CodeLibrary._get_compiled_object", no_code)
    (tmp_path / "interrupted.py").write_text(INNER.format(4))
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.import_module("interrupted").inner(1) == 5
    assert not list(tmp_path.rglob("interrupted*.nb*"))


def test_a_damaged_cache_is_compiled_anew(tmp_path: Path) -> None:
    warm(tmp_path)
    for file in (tmp_path / "__pycache__").glob("inner_kernel*.nb*"):
        file.write_bytes(file.read_bytes()[:20])
    stdout, stderr = warm(tmp_path)
    assert stdout == "8\n"
    assert "cannot be read" in stderr
    assert stderr.count("\n") == 2


@part
def scaled(table: np.ndarray, factor: int, row: int) -> int:
    return int(table[row] * factor)


@part
def scaled_twice(table: np.ndarray, row: int) -> int:
    return scaled(table, 3, row) + scaled(table, -1, row) + scaled(table, row, row)


@kernel
def first_scaled(table: np.ndarray) -> int:
    return scaled_twice(table, 0) + scaled(table, 2, 0)


@jit
def second_scaled(table: np.ndarray) -> int:
    return scaled_twice(table.copy(), 1)


def test_parts_are_translated_once_and_compiled_into_the_kernels_above() -> None:
    table = np.array([5, 7])
    assert first_scaled(table) == 5 * (3 - 1 + 0) + 2 * 5
    assert second_scaled(table) == 7 * (3 - 1 + 1)
    assert len(scaled.overloads) <= 1  # constants are ints like any other; none where the kernels above were cached
    before = len(scaled.overloads)
    assert scaled(table, 4, 1) == 28  # from Python, too, and as a kernel of its own
    assert len(scaled.overloads) == before
