"""Which arguments a user's function gets."""

from pathlib import Path
from typing import Any

import pytest

from mallocgame.errors import InputError
from mallocgame.workloads.program_reference import parse_reference, resolve

MODULE = """
def step(x):
    return x

def needs(mesh):
    return (("needs", mesh),)

def may(mesh=None):
    return (("may", mesh),)

def never(batch=8):
    return (("never", batch),)

def anything(*more, **named):
    return (("anything", more, named),)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("references")
    (path / "meshed_model.py").write_text(MODULE, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "mesh", "made"),
    [
        ("needs", "M", ("needs", "M")),
        ("may", "M", ("may", "M")),
        ("may", None, ("may", None)),
        ("never", "M", ("never", 8)),
        ("anything", "M", ("anything", (), {})),
    ],
)
def test_a_mesh_goes_to_whoever_takes_one(folder: Path, name: str, mesh: Any, made: tuple[Any, ...]) -> None:
    call = resolve(parse_reference(f"meshed_model:step,{name}", folder=str(folder)), mesh)
    assert call.arguments == (made,)


def test_who_needs_a_mesh_is_told_how_to_give_one(folder: Path) -> None:
    with pytest.raises(InputError, match=r"takes a mesh: give --topology .* and --mesh"):
        resolve(parse_reference("meshed_model:step,needs", folder=str(folder)))


def test_a_file_stands_for_its_module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = folder / "own_package" / "inner"
    package.mkdir(parents=True)
    for place in (package, package.parent):
        (place / "__init__.py").touch()
    (package / "in_package.py").write_text("from . import __name__ as above\n\ndef step(x):\n    return above\n")
    monkeypatch.chdir(folder.parent)
    alone = parse_reference(f"{folder.name}/meshed_model.py:step,never")
    assert (alone.module, alone.folder) == ("meshed_model", str(folder))
    within = parse_reference(f"{package}/in_package.py:step", "f32[8]")
    assert (within.module, within.folder) == ("own_package.inner.in_package", str(folder))
    assert resolve(within).function(None) == "own_package.inner"
    with pytest.raises(InputError, match=r"there is no file nothing\.py"):
        parse_reference("nothing.py:step")
