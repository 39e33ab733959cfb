"""A folder with a user's programs, and one compiler for all tests of a process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mallocgame.workloads.xla.compiler import Compiler
from tests.workloads.capture.programs import PROGRAMS


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("user")
    (path / "users_model.py").write_text(PROGRAMS, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def compiler() -> Iterator[Compiler]:
    with Compiler() as one:
        yield one
