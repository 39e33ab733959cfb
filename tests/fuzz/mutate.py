"""Damage: one seeded mutation of a file's bytes, text, JSON, gzip stream or npz archive."""

import bz2
import copy
import gzip
import io
import json
import lzma
import random
import re
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import zstandard

NUMBERS = (
    *("0", "-0", "-1", "1", "2", "7", "127", "128", "255", "256", "65535", "65536", "2147483647", "2147483648"),
    *("4294967296", "9007199254740993", "4611686018427387904", "9223372036854775807", "9223372036854775808"),
    *("18446744073709551615", "18446744073709551616", "9" * 40, "9" * 5000, "1e3", "1e308", "1e309", "-1e999"),
    *("1e-400", "0.5", "NaN", "Infinity", "-inf", "0x10", "1_000", "٣", "", " ", "true", "null", '"5"', "[]", "{}"),
)
WORDS = (
    *(
        "",
        " ",
        "\t",
        "\n",
        "\0",
        "\x1b[31mred\x1b[0m",
        "\u202etxt",
        "=1+1",
        "@SUM(A1)",
        "$\\frac{1}{0}$",
        "[bold]",
        "%s%n",
    ),
    *("../../etc/passwd", "a" * 300, "a" * 100_000, "é", "日本", "\ufeff", "\ud7ff", "\r\n", "#", "//", "/*", "'", '"'),
    *("{", "}", "[", "]", "(", ")", ",", ";", ":", "=", "%", "-", "None", "nan", "\\", "\\u0000", "\\ud800"),
)
BYTES = (b"\0", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\x1f\x8b", b"PK\x03\x04", b"\xc3\x28", b"\n", b"\r", b"\x80")
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 10**9, 2**31, 2**62, 2**63, 2**64, 10**40, 0.5, -0.0, 1e308, float("nan")),
    *(float("inf"), "", "x", "1", "\x1b[31m", "\u202e", "a" * 5000, [], {}, [[]], [0], ["x"], {"a": 1}, [1.5], [None]),
)
PACKERS: tuple[tuple[bytes, Callable[[bytes], bytes], Callable[[bytes], bytes]], ...] = (
    (b"\x28\xb5\x2f\xfd", zstandard.decompress, zstandard.compress),
    (b"\xfd7zXZ\x00", lzma.decompress, lzma.compress),
    (b"BZh", bz2.decompress, bz2.compress),
)
TOKEN = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|[A-Za-z_]+")


def mutate(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Return ``data`` damaged one to four times; ``others`` are files of the same kind to splice with."""
    if data.startswith(b"\x1f\x8b") and rng.random() < 0.7:
        return _squeezed(data, others, rng)
    for magic, unpack, pack in PACKERS:
        if data.startswith(magic) and rng.random() < 0.7:
            return _repacked(data, unpack, pack, rng)
    if data.startswith(b"PK") and rng.random() < 0.7:
        return _archive(data, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        ways: list[Callable[[bytes, random.Random], bytes]] = [_bytes, _text, _text, _lines]
        if data[:1] in (b"{", b"["):
            ways += [_json, _json, _json, _json_line]
        if others and rng.random() < 0.05:
            other = rng.choice(others)
            data = data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]
        data = rng.choice(ways)(data, rng)
    return data


def _bytes(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    length = rng.choice((1, 1, 2, 4, 8, 64, 1000))
    way = rng.randrange(7)
    if way == 0:
        return data[:at]
    if way == 1:
        return data[:at] + data[at + length :]
    if way == 2:
        return data[:at] + data[at : at + length] * rng.choice((2, 3, 50)) + data[at + length :]
    if way == 3:
        return data[:at] + rng.choice(BYTES) + data[at:]
    if way == 4:
        return data[:at] + rng.randbytes(length) + data[at + length :]
    if way == 5 and at < len(data):
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    return data + rng.choice((b"\n", b"\0", b"x", b"}", rng.randbytes(24)))


def _text(data: bytes, rng: random.Random) -> bytes:
    """Replace one number or word."""
    text = data.decode("utf-8", "surrogateescape")
    token = _token(text, rng)
    if token is None:
        return _bytes(data, rng)
    number = token[0][0] in "-0123456789"
    pool = NUMBERS if number and rng.random() < 0.8 else WORDS if rng.random() < 0.5 else ()
    new = rng.choice(pool) if pool else (_token(text, rng) or token)[0]
    return (text[: token.start()] + new + text[token.end() :]).encode("utf-8", "surrogateescape")


def _token(text: str, rng: random.Random) -> re.Match[str] | None:
    """Return the number or word behind a place at random (which may be in the middle of one), else the first."""
    return TOKEN.search(text, rng.randrange(len(text) + 1)) or TOKEN.search(text)


def _lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    way = rng.randrange(5)
    if way == 0:
        del lines[at]
    elif way == 1:
        lines.insert(at, lines[other])
    elif way == 2:
        lines[at], lines[other] = lines[other], lines[at]
    elif way == 3:
        lines = lines[:at]
    else:
        lines[at] = lines[at] * rng.choice((0, 2, 20))
    return b"\n".join(lines)


def _json(data: bytes, rng: random.Random) -> bytes:
    """Change one value, key or level of a JSON document."""
    try:
        return _dump(_changed(json.loads(data), rng))
    except (ValueError, RecursionError):  # no JSON any more, or too deep for Python's own writer
        return _text(data, rng)


def _json_line(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    lines[at] = _json(lines[at], rng) if lines[at].strip() else b"[]"
    return b"\n".join(lines)


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _changed(value: Any, rng: random.Random) -> Any:
    places: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (dict, list)):
            keys = list(node) if isinstance(node, dict) else list(range(min(len(node), 50)))
            places += [(node, key) for key in keys]
            waiting += [node[key] for key in keys]
    if not places or rng.random() < 0.02:
        return rng.choice(VALUES)
    parent, key = rng.choice(places)
    way = rng.randrange(6)
    if way == 0:
        del parent[key]
    elif way == 1 and isinstance(parent, dict):
        parent[rng.choice(WORDS)[:50] or "new"] = parent.pop(key)
    elif way == 1:
        parent.insert(key, copy.deepcopy(parent[key]))
    elif way == 2:
        parent[key] = copy.deepcopy(rng.choice(rng.choice(places)[:1]))
    elif way == 3:
        for _ in range(rng.choice((1, 2, 500))):
            parent[key] = [parent[key]] if rng.random() < 0.5 else {"x": parent[key]}
    elif way == 4 and isinstance(parent[key], (int, float)):
        parent[key] += rng.choice((-1, 1, 2**31, -(2**31), 0.5))
    else:
        parent[key] = copy.deepcopy(rng.choice(VALUES))
    return value


def _squeezed(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Damage what is in a gzip stream, or make a bomb of it."""
    try:
        plain = gzip.decompress(data)
    except (OSError, EOFError, ValueError):
        return _bytes(data, rng)
    if rng.random() < 0.005:
        return gzip.compress(plain[:1] + bytes(rng.choice((b"0,", b"{},", b"1 ", b"[", b"\n"))) * (8 << 20), 9, mtime=0)
    inner = mutate(plain, (), rng)
    packed = gzip.compress(inner, 1, mtime=0)
    return packed + rng.choice((b"", b"", b"", b"x", packed))


def _repacked(
    data: bytes, unpack: Callable[[bytes], bytes], pack: Callable[[bytes], bytes], rng: random.Random
) -> bytes:
    """Damage what is in a packed stream, and now and then put another behind it."""
    try:
        packed = pack(mutate(unpack(data), (), rng))
    except Exception:  # it is damaged already, each packer in its own words
        return _bytes(data, rng)
    return packed + rng.choice((b"", b"", b"", b"x", packed))


def _archive(data: bytes, rng: random.Random) -> bytes:
    """Change, drop or add one array of an npz archive."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            arrays = dict(found)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return _bytes(data, rng)
    name = rng.choice(list(arrays) or ["x"])
    array = np.asarray(arrays.get(name, np.zeros(1)))
    flat = array.ravel()
    other: list[Any] = [
        np.array("text"),
        np.array([b"bytes"] * 3),
        np.full(array.shape, np.nan),
        np.full(array.shape, np.inf, np.float32),
        np.full(array.shape, "1"),
        array[..., None],
        flat[: flat.size // 2],
        np.concatenate([flat, flat]),
        np.zeros(0),
        np.array(3),
        array.astype(np.complex128) if array.dtype.kind in "biuf" else array,
        array.astype(">i2") if array.dtype.kind in "biuf" else array,
        np.full(array.shape, -(2**31), np.int64),
        np.full(array.shape, 2**31 - 1, np.int64),
        np.full(array.shape, np.datetime64("NaT")),
    ]
    way = rng.randrange(4)
    if way == 0:
        arrays.pop(name, None)
    elif way == 1:
        arrays[rng.choice(("x", "arr_999", name + ".npy", "observation.x"))] = array
    else:
        arrays[name] = rng.choice(other)
    out = io.BytesIO()
    with np.errstate(all="ignore"):
        np.savez(out, **arrays)
    return out.getvalue()
