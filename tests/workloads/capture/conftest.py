"""A folder with a user's programs, and one compiler for all tests of a process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mallocgame.workloads.xla.compiler import Compilation, Compiler, CompileRequest
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


class Once(Compiler):
    """Compiles what it is asked for once, and answers from memory then: for what is read from a log in several ways."""

    def __init__(self, compiler: Compiler) -> None:
        super().__init__()
        self.compiler, self.done = compiler, dict[str, Compilation]()

    def compile(self, asked: CompileRequest) -> Compilation:
        key = repr(asked)
        if key not in self.done:
            self.done[key] = self.compiler.compile(asked)
        return self.done[key]


@pytest.fixture
def once(compiler: Compiler) -> Compiler:
    return Once(compiler)
