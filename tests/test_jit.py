"""A kernel's cache must notice that a kernel in another file, which it calls, has changed."""

import os
import subprocess
import sys
from pathlib import Path

INNER = "from mallocgame.jit import jit\n\n@jit\ndef inner(x: int) -> int:\n    return x + {}\n"
OUTER = """import inner_kernel
from mallocgame.jit import jit

@jit
def outer(x: int) -> int:
    return inner_kernel.inner(x)
"""


def test_a_change_in_a_called_kernels_file_is_seen(tmp_path: Path) -> None:
    (tmp_path / "outer_kernel.py").write_text(OUTER)
    environment = dict(os.environ, PYTHONPATH=f"{tmp_path}{os.pathsep}{Path(__file__).resolve().parents[1]}")
    command = [sys.executable, "-c", "import outer_kernel; print(outer_kernel.outer(1))"]
    for added in (1, 20, 300):
        (tmp_path / "inner_kernel.py").write_text(INNER.format(added))
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert int(answer.stdout) == 1 + added
