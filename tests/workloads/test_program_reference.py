"""Which arguments a user's function gets."""

from pathlib import Path
from typing import Any

import pytest

from mallocgame.errors import InputError
from mallocgame.workloads.program_reference import parse_reference, resolve, shapes

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


SCRIPT = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--layers", type=int, default=2)
parser.add_argument("--name", required=True)
config = parser.parse_args()

def step(x):
    return x

def example_args():
    return config.layers, config.name
"""

FLAGGED = """
from absl import flags
flags.DEFINE_integer("test_reference_layers", 3, "how many")

def step(x):
    return x

def example_args():
    return (flags.FLAGS.test_reference_layers,)
"""


def test_a_script_finds_its_own_command_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "script_model.py").write_text(SCRIPT, encoding="utf-8")
    (folder / "flagged_model.py").write_text(FLAGGED, encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["mallocgame", "capture", "--chip", "v5e"])
    with pytest.raises(InputError, match=r"arguments are required: --name; write its command line behind the module"):
        resolve(parse_reference("script_model:step", folder=str(folder)))
    reference = parse_reference(f"{folder / 'script_model.py'} --name 'a b' --layers 4:step")
    assert resolve(reference).arguments == (4, "a b")
    assert str(reference) == "script_model --name 'a b' --layers 4:step"
    assert parse_reference(str(reference), folder=reference.folder) == reference
    assert resolve(parse_reference("flagged_model:step", folder=str(folder))).arguments == (3,)
    (folder / "plain_model.py").write_text(f"import absl.flags\n{SCRIPT}", encoding="utf-8")  # as optax imports it
    assert resolve(parse_reference("plain_model --name a --layers 5:step", folder=str(folder))).arguments == (5, "a")
    flagged = parse_reference("flagged_model --test_reference_layers 7:step", folder=str(folder))
    assert resolve(flagged).arguments == (7,)
    with pytest.raises(InputError, match="Unknown command line flag 'test_reference_layer'"):
        resolve(parse_reference("flagged_model --test_reference_layer 7:step", folder=str(folder)))


def test_words_that_do_not_parse_are_told() -> None:
    with pytest.raises(InputError, match="do not parse: No closing quotation"):
        parse_reference("model --name 'a:step")


def test_types_are_those_of_hlo_and_of_numpy() -> None:
    made = shapes("s4[8,2], u4[3],f8e4m3fn[4],c64[2,2],float8_e5m2[1],int8[],key[2]")
    names = ["int4", "uint4", "float8_e4m3fn", "complex64", "float8_e5m2", "int8", "key<fry>"]
    assert [str(struct.dtype) for struct in made] == names
    assert [struct.shape for struct in made] == [(8, 2), (3,), (4,), (2, 2), (1,), (), (2,)]
    with pytest.raises(InputError, match="as HLO or NumPy call it"):
        shapes("f32[1],q7[2]")


def test_a_function_of_nothing_needs_no_arguments(folder: Path) -> None:
    (folder / "constants.py").write_text("def made():\n    return 1\n\ndef taken(x):\n    return x\n", encoding="utf-8")
    assert resolve(parse_reference("constants:made", folder=str(folder))).arguments == ()
    with pytest.raises(InputError, match="give --args"):
        resolve(parse_reference("constants:taken", folder=str(folder)))


def test_a_name_too_long_for_a_file_is_no_file() -> None:
    assert parse_reference("a" * 300 + ":f").module == "a" * 300
    with pytest.raises(InputError, match="there is no file"):
        parse_reference("a" * 300 + ".py:f")
