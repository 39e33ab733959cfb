"""Shapes as laid out: padding by tiles, bounds, packed elements, memory spaces."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mallocgame.workloads.hlo.shapes import array


@pytest.mark.parametrize(
    ("text", "laid_out", "plain"),
    [
        ("f32[65536,4]{1,0:T(8,128)}", 65536 * 128 * 4, 65536 * 4 * 4),  # 4 is padded to 128
        ("f32[65536,4]{0,1:T(8,128)}", 65536 * 8 * 4, 65536 * 4 * 4),  # here 65536 is the fastest dimension
        ("bf16[3,5]{1,0:T(8,128)(2,1)}", 8 * 128 * 2, 30),
        ("bf16[100]{0:T(1024)(128)(2,1)}", 1024 * 2, 200),
        ("s32[]{:T(128)}", 512, 4),
        ("f32[2,3,5]{2,1,0:T(*,8)}", 2 * 16 * 4, 120),  # the star merges 3 with 5
        ("f32[<=8,128]{1,0}", 4096, 4096),
        ("f32[<=8,128]{1,0:M(32)}", 4096 + 32, 4096),
        ("s4[3]", 3, 3),
        ("s4[6]{0:E(4)}", 3, 3),
        ("f8e4m3fn[7]", 7, 7),
        ("f4e2m1fn[7]", 7, 7),
        ("pred[3]", 3, 3),
        ("c128[2]", 32, 32),
        ("f32[10]{0:L(16)}", 64, 40),
        ("f32[0,7]", 0, 0),
        ("token[]", 0, 0),
        ("b(f32[4]{0})", 16, 16),
    ],
)
def test_bytes(text: str, laid_out: int, plain: int) -> None:
    assert (array(text).laid_out_bytes, array(text).bytes) == (laid_out, plain)


def test_memory_spaces() -> None:
    assert array("f32[4]{0:T(8)S(5)}").memory_space == 5
    assert array("f32[4]").memory_space == 0


@pytest.mark.parametrize("text", ["f32", "f32[?]", "f32[n]", "f32[<=]", "q4[3]", "f32[-1]", "", "f32[3", "float[3]"])
def test_what_has_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a shape|has no size|unknown element type"):
        array(text)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=3), st.lists(st.integers(1, 16), min_size=1, max_size=3))
def test_padding_only_adds(sizes: list[int], tile: list[int]) -> None:
    """Against counting the tiles that cover the array, one dimension after the other."""
    order = ",".join(str(axis) for axis in reversed(range(len(sizes))))
    text = f"f32[{','.join(map(str, sizes))}]{{{order}:T({','.join(map(str, tile))})}}"
    covered = [1] * (len(tile) - len(sizes)) + sizes
    inner = zip(covered[len(covered) - len(tile) :], tile, strict=True)
    expected = math.prod(covered[: len(covered) - len(tile)]) * math.prod(-(-size // t) * t for size, t in inner)
    assert array(text).laid_out_bytes == 4 * expected >= array(text).bytes
