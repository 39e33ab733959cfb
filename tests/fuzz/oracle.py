"""Is what a reader accepted what it should be? Told by other means than the reader's."""

import bz2
import gzip
import io
import json
import lzma
import zipfile
from pathlib import Path
from typing import Any, NoReturn

import zstandard

from tests.fuzz.readers import Reader

UNPACKERS = {
    ".gz": (b"\x1f\x8b", gzip.decompress),
    ".zst": (b"\x28\xb5\x2f\xfd", lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data)),
    ".xz": (b"\xfd7zXZ\x00", lzma.decompress),
    ".bz2": (b"BZh", bz2.decompress),
}


def misread(reader: Reader, data: bytes, found: Any, folder: Path) -> str:
    """Return why ``data`` should have been refused, or read otherwise than as ``found``; empty if nothing is known.

    Packed data must unpack to its end by the packer's own module, JSON be strict by Python's ``json``, an npz archive
    hold what its checksums say, and what a reader's ``write`` writes of ``found`` be read and written the same again.
    """
    try:
        plain = _unpacked(reader, data)
    except (OSError, EOFError, ValueError, lzma.LZMAError, zstandard.ZstdError) as error:
        return f"accepted a packed stream that is not whole: {error}"
    if reader.suffix == ".json" and (reason := _not_json(plain)):
        return f"accepted what is not strict JSON: {reason}"
    if reader.suffix == ".npz":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if bad := archive.testzip():
                return f"accepted an archive whose {bad[:40]!a} is damaged"
    return _not_kept(reader, found, folder)


def _unpacked(reader: Reader, data: bytes) -> bytes:
    for suffix, (magic, unpack) in UNPACKERS.items():
        if data.startswith(magic) and reader.suffix in (".json", f".txt{suffix}"):
            return unpack(data)
    return data


def _not_json(data: bytes) -> str:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a key is repeated")
        return dict(pairs)

    def no_constant(name: str) -> NoReturn:
        raise ValueError(name)

    try:
        json.loads(data.decode("utf-8-sig"), object_pairs_hook=unique, parse_constant=no_constant)
    except ValueError as error:
        return str(error)[:100]
    return ""


def _not_kept(reader: Reader, found: Any, folder: Path) -> str:
    """Write what was read, read that, write it again: the two texts must be one."""
    if reader.write is None:
        return ""
    texts = []
    for number in range(2):
        path = folder / f"again-{number}{reader.suffix}"
        reader.write(path, found)
        texts.append(path.read_bytes())
        found = reader.read(path)
    return "" if texts[0] == texts[1] else "what it read is not what is read of what was written of it"
