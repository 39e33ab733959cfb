"""A short seeded pass of the fuzzer over every reader, and files whose damage must never go unnoticed."""

import random
from pathlib import Path

import pytest

from tests.fuzz.drive import fuzz, verdict
from tests.fuzz.mutate import mutate
from tests.fuzz.readers import READERS
from tests.fuzz.readers.agent import WEIGHTS
from tests.fuzz.readers.compilers import HLO
from tests.fuzz.readers.shared import npz

INPUTS = 60


@pytest.mark.parametrize("name", list(READERS))
def test_damage_is_answered_with_one_line(name: str) -> None:
    report = fuzz(READERS[name], seed=1, seconds=60, most=INPUTS)
    faults = {signature: (data[:80], detail[-600:]) for signature, (data, detail) in report.faults.items()}
    assert faults == {}
    assert report.refused > 0  # the damage is damage


DAMAGED = [
    ("trace", b'{"format": "mallocgame-trace", "version": 2000}', "version 2000"),
    ("mapping", b"\x1f\x8b\x08\x00cut", "gzip"),
    ("options", b'{"format": "mallocgame-compiler-options", "version": 1, "version": 1}', "repeated"),
    ("packing", b"id,lower,upper,size\na,0,4,NaN\n", ":2: size must be a whole number"),
    ("packing", b'id,lower,upper,size\n"a,0,4,8\n', "is not CSV"),
    ("hlo", b"HloModule m\n\nENTRY %main () -> f32[] {\n  ROOT %c = f32[] constant(0)\n}\n", "not scheduled"),
    ("hlo", HLO.replace(b'1 "/home', b'1a "/home'), ":4: not a row of FileNames"),
    ("weights", npz({"arr_0": WEIGHTS["a"] * float("nan"), "arr_1": WEIGHTS["b"]}), ""),
    ("weights", npz({"arr_0": WEIGHTS["a"].astype("U8"), "arr_1": WEIGHTS["b"]}), ""),
]


@pytest.mark.parametrize(("name", "data", "reason"), DAMAGED)
def test_this_damage_is_refused(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    path = tmp_path / f"x{READERS[name].suffix}"
    path.write_bytes(data)
    found, detail = verdict(READERS[name], path, 60.0)  # imports and compiles too
    assert found == "refused", detail
    assert str(path) in detail or path.parent.name not in detail
    assert reason in detail


def test_the_same_seed_makes_the_same_damage() -> None:
    seeds = READERS["packing"].seeds()
    one, two = ([mutate(seeds[0], seeds, rng) for _ in range(50)] for rng in (random.Random(3), random.Random(3)))
    assert one == two
    assert len(set(one)) > 40
