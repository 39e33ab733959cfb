"""Shapes of HLO values: nesting, dimensions, layout, memory space, and what an array occupies as laid out.

Format: ``bf16[8,<=128]{1,0:T(8,128)(2,1)S(1)}``: element type, dimensions (``<=``: a bound), minor-to-major order, and
after the colon tiles, element size in bits, memory space and more, as ``Layout::ToString`` of XLA writes them.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

Index = tuple[int, ...]  # a position in a (nested) tuple shape; () is the whole
Shape = str | tuple["Shape", ...]  # a leaf's text, or a tuple's members

MAX_RANK = 64

_ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([^\]]*)\](?:\{([^{}]*)\})?")
_BUFFER = re.compile(r"b\((.*)\)", re.DOTALL)  # a mutable buffer of a shape
_TILE = re.compile(r"\(([\d,*\s]*)\)")
_PROPERTY = re.compile(r"(L|E|S|M)\((\d{1,18})\)")
_TYPE = re.compile(r"(?:[suf]|bf|c)(\d{1,3})(?:e\d+m\d+\w*)?")
_NAMED_BITS = {"pred": 8, "token": 0, "opaque": 0}


@dataclass(frozen=True, slots=True)
class Array:
    """One array as its shape states it."""

    element_bits: int  # as stored: four-bit types take a byte unless the layout packs them
    dimensions: tuple[int, ...]  # bounds where dynamic
    laid_out_bytes: int  # tiles' padding and the prefix of dynamic shapes included
    memory_space: int  # 0: default memory

    @property
    def bytes(self) -> int:
        """Bytes without padding."""
        return -(-math.prod(self.dimensions) * self.element_bits // 8)


def leaves(shape: Shape, prefix: Index = ()) -> Iterator[tuple[Index, str]]:
    """Yield the index and text of each array in a shape."""
    if isinstance(shape, str):
        yield prefix, shape
    else:
        for i, member in enumerate(shape):
            yield from leaves(member, (*prefix, i))


def structure(shape: Shape) -> object:
    """Return the nesting of a shape, arrays replaced by None."""
    return None if isinstance(shape, str) else tuple(structure(member) for member in shape)


def to_index(text: str) -> Index:
    """Return the tuple index written as ``0, 1`` (empty: the whole)."""
    return tuple(int(word) for word in text.split(",") if word.strip())


@lru_cache(maxsize=65536)
def array(text: str) -> Array:
    """Read an array's shape.

    Raises:
        ValueError: not a shape, an unknown element type, or a dimension without a size; the message says which.

    >>> array("f32[65536,4]{1,0:T(8,128)}").laid_out_bytes
    33554432
    >>> array("f32[<=8,128]{1,0:S(1)}")
    Array(element_bits=32, dimensions=(8, 128), laid_out_bytes=4096, memory_space=1)
    """
    buffer = _BUFFER.fullmatch(text)
    match = _ARRAY.fullmatch(buffer[1].strip() if buffer else text)
    if not match:
        raise ValueError(f"not a shape: {text[:60]!r}")
    kind = match[1]
    known = _TYPE.fullmatch(kind)
    if kind not in _NAMED_BITS and not known:
        raise ValueError(f"unknown element type {kind!r}")
    bits = _NAMED_BITS[kind] if kind in _NAMED_BITS else int(known[1]) if known else 0
    sizes = tuple(_dimension(word.strip(), text) for word in match[2].split(",") if word.strip())
    if len(sizes) > MAX_RANK:
        raise ValueError(f"{len(sizes)} dimensions, expected at most {MAX_RANK}")
    order, _, properties = (match[3] or "").partition(":")
    stated = {letter: int(value) for letter, value in _PROPERTY.findall(properties)}
    stored = stated.get("E") or max(bits, 8) * (bits > 0)
    elements = _padded(_physical(sizes, order), _tiles(properties))
    elements = -(-elements // (stated.get("L") or 1)) * (stated.get("L") or 1)
    size = -(-elements * stored // 8) + stated.get("M", 0)
    return Array(stored, sizes, size, stated.get("S", 0))


def dimensions(text: str) -> tuple[int, ...]:
    """Return the sizes of an array such as ``bf16[8,128]{1,0}``; () for a scalar."""
    return array(text).dimensions


def array_bytes(text: str) -> int:
    """Return the bytes of an array, without padding."""
    return array(text).bytes


def _dimension(word: str, text: str) -> int:
    bound = re.fullmatch(r"(?:<=)?(\d{1,18})", word)
    if not bound:
        raise ValueError(f"dimension {word!r} of {text[:60]} has no size")
    return int(bound[1])


def _physical(sizes: tuple[int, ...], order: str) -> list[int]:
    """Return the sizes, slowest dimension first, as the minor-to-major order lays them out."""
    minor_to_major = [int(word) for word in order.split(",") if word.strip().isdigit()]
    if sorted(minor_to_major) != list(range(len(sizes))):
        return list(sizes)
    return [sizes[axis] for axis in reversed(minor_to_major)]


def _tiles(properties: str) -> list[list[int]]:
    """Return the tiles that follow ``T``; -1 stands for ``*``, a dimension merged with the next."""
    start = properties.find("T(")
    found = []
    while start >= 0:
        tile = _TILE.match(properties, start + (properties[start] == "T"))
        if not tile:
            break
        words = [word.strip() for word in tile[1].split(",") if word.strip()]
        found.append([-1 if word == "*" else int(word) for word in words])
        start = tile.end() if tile.end() < len(properties) and properties[tile.end()] == "(" else -1
    return found


def _padded(sizes: list[int], tiles: list[list[int]]) -> int:
    """Return the elements that an array of physical ``sizes`` takes once each tile in turn pads its last dimensions.

    Source: XLA's tiled layout (docs/tiled_layout.md of openxla/xla): the last ``len(tile)`` dimensions are padded to
    multiples of the tile's; the result has the counts of tiles, then the tile's own dimensions.
    """
    for tile in tiles:
        sizes = [1] * (len(tile) - len(sizes)) + sizes
        outer, inner = sizes[: len(sizes) - len(tile)], sizes[len(sizes) - len(tile) :]
        merged, carried = [], 1
        for size, wanted in zip(inner, tile, strict=True):
            carried *= size
            if wanted != -1:
                merged.append((carried, max(wanted, 1)))
                carried = 1
        sizes = [*outer, *(-(-size // wanted) for size, wanted in merged), *(wanted for _, wanted in merged)]
    return math.prod(sizes)
