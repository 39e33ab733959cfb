"""Files as blocks of bytes: unpacked by what they hold, not by their name, and refused where they cannot be text."""

import bz2
import gzip
import importlib
import io
import lzma
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from mallocgame.errors import TraceError

BLOCK_BYTES = 1 << 23
SNIFF_BYTES = 1 << 16
PACKED_SUFFIXES = (".gz", ".zst", ".xz", ".bz2")
Progress = Callable[[float], None]
_ZSTD = b"\x28\xb5\x2f\xfd"
_MAGIC = {b"\x1f\x8b": ".gz", _ZSTD: ".zst", b"\xfd7zXZ\x00": ".xz", b"BZh": ".bz2"}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_UTF8_MARK = b"\xef\xbb\xbf"
_UNPACK_ERRORS = (OSError, EOFError, lzma.LZMAError, zlib.error, ValueError, RuntimeError)


def bare_name(path: Path) -> str:
    """Return the file's name in lower case, without the suffix of a packer.

    >>> bare_name(Path("a/Trace.CSV.zst"))
    'trace.csv'
    """
    name = path.name.lower()
    for suffix in PACKED_SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def open_file(path: Path) -> IO[bytes]:
    """Open a file to read its contents, unpacked where its first bytes are those of gzip, zstd, xz or bzip2.

    Raises:
        TraceError: it cannot be read, is no regular file, or is named as packed but is not.
    """
    try:
        if path.exists() and not path.is_file():
            raise TraceError(path, None, "not a regular file (it is read more than once); write it to a file first")
        with path.open("rb") as file:
            head = file.read(6)
        packer = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")
        if packer == ".zst":
            return _open_zstd(path)
        if packer:
            openers: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
            return cast(IO[bytes], openers[packer](path, "rb"))
        if head and path.suffix.lower() in PACKED_SUFFIXES:
            raise TraceError(path, None, f"cannot unpack: the file is named {path.suffix} but does not start as one")
        return path.open("rb")
    except OSError as error:
        raise TraceError(path, None, error.strerror or str(error)) from None


def _open_zstd(path: Path) -> IO[bytes]:
    """Open with the ``zstandard`` package, or else with the ``zstd`` program."""
    try:
        zstandard: Any = importlib.import_module("zstandard")
    except ImportError:
        zstandard = None
    if zstandard is not None:
        return cast(IO[bytes], _Zstd(path, zstandard.ZstdDecompressor(max_window_size=2**31)))
    program = shutil.which("zstd")
    if program is None:
        raise TraceError(path, None, "a zstd file; install it with: pip install zstandard (or unpack: zstd -d FILE)")
    return cast(IO[bytes], _Piped([program, "-dcq", "--long=31", "--", str(path)]))


class _Zstd(io.RawIOBase):
    """Unpacks frame by frame; unlike the package's own reader it raises where the last frame is cut off."""

    def __init__(self, path: Path, unpacker: Any) -> None:
        self._file, self._unpacker, self._packed = path.open("rb"), unpacker, b""
        self._frame: Any = None

    def read(self, size: int = -1) -> bytes:
        while True:
            self._packed = self._packed or self._file.read(1 << 20)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("the file ends inside a zstd frame")
                return b""
            self._frame = self._frame or self._unpacker.decompressobj()
            try:
                data: bytes = self._frame.decompress(self._packed)
            except Exception as error:  # the package's own error type
                raise OSError(str(error)) from None
            self._packed = b""
            if self._frame.eof:
                self._packed, self._frame = self._frame.unused_data, None
            if data:
                return data

    def close(self) -> None:
        self._file.close()
        super().close()


class _Piped(io.RawIOBase):
    """The standard output of a program; reading its end raises where the program failed."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def read(self, size: int = -1) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(size)
        if not data and size != 0 and self._process.wait() != 0:
            assert self._process.stderr is not None
            raise OSError(self._process.stderr.read().decode("utf-8", "replace").strip().splitlines()[-1])
        return data

    def close(self) -> None:
        if not self.closed:
            for stream in (self._process.stdout, self._process.stderr):
                if stream is not None:
                    stream.close()
            if self._process.poll() is None:
                self._process.terminate()
            self._process.wait()
        super().close()


def blocks(path: Path, on_progress: Progress | None = None, size: int | None = None) -> Iterator[bytes]:
    """Yield the unpacked contents in blocks; ``on_progress`` is told the bytes so far."""
    with open_file(path) as file:
        done = 0
        while True:
            try:
                block = file.read(size or BLOCK_BYTES)
            except _UNPACK_ERRORS as error:
                raise TraceError(path, None, f"cannot unpack: {error}") from None
            if not block:
                return
            done += len(block)
            if on_progress is not None:
                on_progress(float(done))
            yield block


def text_blocks(path: Path, on_progress: Progress | None = None) -> Iterator[bytes]:
    """Yield whole lines in blocks, without a byte-order mark; the last block may lack its newline.

    Raises:
        TraceError: UTF-16, a NUL byte (so no text), or lines that end in CR alone.
    """
    rest, first, seen_newline, seen_return = b"", True, False, False
    for block in blocks(path, on_progress):
        data = rest + block
        if first and len(data) >= len(_UTF8_MARK):
            if data.startswith(_UTF16):
                raise TraceError(path, None, "UTF-16 text; write it as UTF-8 (iconv -f UTF-16 -t UTF-8)")
            data, first = data.removeprefix(_UTF8_MARK), False
        if b"\0" in block:
            raise TraceError(path, None, "not text: it holds NUL bytes; name its format with --format")
        seen_newline, seen_return = seen_newline or b"\n" in block, seen_return or b"\r" in block
        whole, newline, rest = data.rpartition(b"\n")
        if newline:
            yield whole + newline
    if seen_return and not seen_newline:
        raise TraceError(path, None, "lines end in CR alone; write them with LF (tr '\\r' '\\n')")
    if rest.removeprefix(_UTF8_MARK):
        yield rest.removeprefix(_UTF8_MARK)


def first_lines(path: Path) -> list[bytes]:
    """Return whole lines from the start of a text file, at least one if there is any."""
    data = b""
    for block in text_blocks(path):
        data += block
        if len(data) >= SNIFF_BYTES:
            break
    lines = data[: max(SNIFF_BYTES, data.find(b"\n") + 1)].split(b"\n")
    return lines[:-1] if len(lines) > 1 else lines
