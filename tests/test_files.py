"""Reading and writing the files that people name (``mallocgame.files``)."""

import errno
import gzip
import io
import json
import os
import pickle
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import zipfile
import zlib
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from mallocgame.errors import InputError, MissingExtraError, TraceError, printable
from mallocgame.files import (
    append_bytes,
    atomic_path,
    check_folder,
    check_name,
    check_writable,
    is_stream,
    read_bytes,
    read_json,
    read_text,
    read_toml,
    reader,
    refusing_damage,
    write_text,
    writing,
)
from mallocgame.files.arrays import load_arrays
from tests.cli.run import run
from tests.paths import ROOT


def _refusal(path: Path, read: object = read_bytes) -> str:
    with pytest.raises(TraceError) as caught:
        read(path)  # type: ignore[operator]
    assert str(caught.value).startswith(f"{path}:")
    return str(caught.value)


def test_what_is_no_regular_file_is_told_apart_and_not_opened(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "a named pipe" in _refusal(pipe)
    assert "a folder" in _refusal(tmp_path)
    assert "a device" in _refusal(Path("/dev/zero"))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        assert "a socket" in _refusal(tmp_path / "socket")
    assert "No such file" in _refusal(tmp_path / "absent")
    assert "too long" in _refusal(tmp_path / ("n" * 300))
    with pytest.raises(TraceError, match="null byte"):
        read_bytes("a\0b")
    with mock.patch("os.open", side_effect=AssertionError("opened")), pytest.raises(TraceError):
        read_bytes(pipe)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "b": 2, "a": 3}', "'a' is repeated"),
        ("NaN", "NaN is not a JSON number"),
        ("[1e999]", "out of range"),
        ("[-1e0400]", "out of range"),
        (f"[{'9' * 5000}]", "out of range"),
        (f"[{2**62 + 1}]", "out of range"),
        ("[" * 100_000, "nested too deeply"),
        ('["\\ud800"]', "surrogate"),
        ('{"\\udc00": 1}', "surrogate"),
        ('["\\udfff"]', "surrogate"),
        ('["x\\ud800"]', "surrogate"),
        ("[1,\n2", "2: not JSON"),
        ("", "not JSON"),
    ],
)
def test_json_is_strict(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8")
    assert reason in _refusal(path, read_json)


@pytest.mark.parametrize("value", [2**62, -(2**62), 1e308, 5e-324, 10**18, "\U0001f600 \\u", {"e400": "1" * 30}])
def test_json_that_is_in_range_is_read_as_it_is(tmp_path: Path, value: object) -> None:
    path = tmp_path / "x.json"
    path.write_text("\ufeff" + json.dumps([value]), encoding="utf-8")
    assert read_json(path) == [value]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = nan", "x: number nan is out of range"),
        ("[a]\nb = [1, {c = -inf}]", r"a.b\[1\].c: number -inf is out of range"),
        (f"x = {2**62 + 1}", "x: number 46116"),
        (f"x = 1{'0' * 400}", "x: number 1000"),
        (f"x = {'9' * 5000}", "not TOML: "),
        ("x = " + "[" * 9000, "not TOML: "),
        ("x = 1\nx = 2", "not TOML: "),
        ("x = {" + ".".join("a" * 3000) + " = nan}", r"x(\.a)+.?: number nan is out of range"),
        ("#" * 2**20 + "#", "larger than 1048576 bytes"),
    ],
)
def test_toml_is_as_strict(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TraceError, match=rf"^{path}: {reason}"):
        read_toml(path)
    path.write_text(f"x = [{2**62}, 1e308, true, 'a', 1979-05-27]", encoding="utf-8")
    assert read_toml(path)["x"][:4] == [2**62, 1e308, True, "a"]
    path.write_text("x = 1\n" + ".".join("a" * 3000) + " = 1", encoding="utf-8")
    with pytest.raises(TraceError, match=rf"^{path}:2: a key has more than 100 parts"):
        read_toml(path)


def test_a_repeated_key_is_found_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("{" + ",".join(f'"k{i}":0' for i in range(60_000)) + ',"k59999":1}', encoding="utf-8")
    began = time.process_time()
    assert "k59999" in _refusal(path, read_json)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("unit", [b"{},", b"0,", b"[", b'"",'])
def test_a_gzip_bomb_is_bounded(tmp_path: Path, unit: bytes) -> None:
    path = tmp_path / "bomb.json.gz"
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
    path.write_bytes(squeeze.compress(b"[" + unit * (60 * 2**20 // len(unit))) + squeeze.flush())
    tracemalloc.start()
    assert "when decompressed" in _refusal(path, read_json)
    assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    tracemalloc.stop()


def test_a_file_may_be_as_large_as_it_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for data in (b"x" * 50, gzip.compress(b"x" * 50)):
        path.write_bytes(data)
        assert read_bytes(path, max_bytes=50) == b"x" * 50
        with pytest.raises(TraceError, match=r"larger than 49 bytes|49 bytes when decompressed"):
            read_bytes(path, max_bytes=49)


def test_a_small_file_may_be_as_dense_as_it_likes(tmp_path: Path) -> None:
    path = tmp_path / "zeros.json.gz"
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
    path.write_bytes(squeeze.compress(b"[" + b"0," * 500_000 + b"0]") + squeeze.flush())
    assert read_json(path) == [0] * 500_001


def test_a_large_file_may_be_as_dense_as_traces_are(tmp_path: Path) -> None:
    path = tmp_path / "large.txt.gz"
    text = b"".join(b"%d " % (n * n) for n in range(900_000))
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
    path.write_bytes(squeeze.compress(text) + squeeze.flush())
    assert len(text) > 8 * 2**20
    assert read_bytes(path) == text


@pytest.mark.parametrize("cut", [10, 12, 15, 20])
def test_broken_gzip_data(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "x.gz"
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
    whole = squeeze.compress(b"hello, hello, hello") + squeeze.flush()
    path.write_bytes(whole)
    assert read_text(path) == "hello, hello, hello"
    path.write_bytes(whole[:-cut])
    assert "gzip" in _refusal(path)
    path.write_bytes(whole[:cut] + bytes([whole[cut] ^ 0x55]) + whole[cut + 1 :] + b"more")
    assert _refusal(path)


def test_whatever_a_library_raises_becomes_one_line(tmp_path: Path) -> None:
    for error in (RecursionError("deep"), zlib.error("bad\nmore"), KeyError("x"), OverflowError(), MemoryError()):
        with pytest.raises(TraceError) as caught, refusing_damage("f.bin", "a picture"):
            raise error
        assert str(caught.value).startswith("f.bin: damaged, or not a picture (")
        assert "\n" not in str(caught.value)
    for error, reason in (
        (OSError(errno.EIO, "Input/output error", "x"), "Input/output error"),
        (OSError("odd"), "odd"),
    ):
        with (
            pytest.raises(TraceError, match=f"^f.bin: cannot be read: {reason}$"),
            refusing_damage("f.bin", "a picture"),
        ):
            raise error
    with pytest.raises(InputError, match=r"^mine$"), refusing_damage("f.bin", "a picture"):
        raise InputError("mine")
    with pytest.raises(KeyboardInterrupt), refusing_damage("f.bin", "a picture"):
        raise KeyboardInterrupt


def test_a_reader_names_its_file_and_the_line(tmp_path: Path) -> None:
    @reader("a picture")
    def read(path: Path, error: Exception) -> None:
        raise error

    for call in (lambda: read(tmp_path / "f", KeyError("x")), lambda: read(path=tmp_path / "f", error=KeyError("x"))):
        with pytest.raises(TraceError, match=rf"^{tmp_path / 'f'}: damaged, or not a picture"):
            call()
    (tmp_path / "latin").write_bytes(b"one\ntwo\nf\xfcnf\n")
    assert "latin:3: not UTF-8 text" in _refusal(tmp_path / "latin", read_text)


def test_a_message_is_one_printable_line_of_bounded_length() -> None:
    error = TraceError("evil\x1b[2J\u202e.json", 3, "a\nb\rc" + "x" * 10_000)
    assert str(error).isprintable()
    assert str(error).startswith("evil\\x1b[2J\\u202e.json:3: a b\\rc")
    assert len(str(error)) < 2100
    assert printable("plain é 日本") == "plain é 日本"
    for original in (error, MissingExtraError("torch", "robust"), InputError("x")):
        copy = pickle.loads(pickle.dumps(original))
        assert (type(copy), str(copy), copy.__dict__) == (type(original), str(original), original.__dict__)


def test_a_file_is_replaced_with_its_mode_and_through_its_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_text("old", encoding="utf-8")
    real.chmod(0o640)
    link.symlink_to("real.txt")
    write_text(link, "new")
    assert link.is_symlink()
    assert real.read_text(encoding="utf-8") == "new"
    assert real.stat().st_mode & 0o777 == 0o640
    dangling = tmp_path / "dangling.txt"
    dangling.symlink_to("made.txt")
    write_text(dangling, "made")
    assert (tmp_path / "made.txt").read_text(encoding="utf-8") == "made"
    umask = os.umask(0o027)
    try:
        write_text(tmp_path / "fresh.txt", "x")
    finally:
        os.umask(umask)
    assert (tmp_path / "fresh.txt").stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "dangling.txt",
        "fresh.txt",
        "link.txt",
        "made.txt",
        "real.txt",
    ]


def test_a_pipe_and_a_device_are_written_to_as_they_are(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_writable(pipe)
    heard: list[str] = []
    listener = threading.Thread(target=lambda: heard.append(pipe.read_text(encoding="utf-8")))
    listener.start()
    write_text(pipe, "through the pipe")
    listener.join(10)
    assert heard == ["through the pipe"]
    assert pipe.is_fifo()
    write_text("/dev/null", "x")
    with pytest.raises(TraceError, match="/dev/full: cannot write: No space left"):
        write_text("/dev/full", "x")
    name = Path("/proc/self/comm")  # by a link of another folder, too
    (tmp_path / "link").symlink_to(name)
    before = name.read_text(encoding="utf-8")
    write_text(tmp_path / "link", "renamed")
    assert name.read_text(encoding="utf-8") == "renamed\n"
    name.write_text(before, encoding="utf-8")
    for absent in ("/dev/none-such", "/proc/self/fd/9999"):  # where root could make a file
        with pytest.raises(TraceError, match="cannot write: there is no such device"):
            check_writable(absent)
        assert not Path(absent).exists()


def test_what_stands_for_a_stream_is_added_to(tmp_path: Path) -> None:
    path = tmp_path / "redirected.txt"
    with path.open("w+", encoding="utf-8") as stream:
        stream.write("first, ")
        stream.flush()
        name = f"/proc/self/fd/{stream.fileno()}"  # as /dev/stdout is
        write_text(name, "second")
        assert path.read_text(encoding="utf-8") == "first, second"
        check_name(name, (".json",))
    os.mkfifo(tmp_path / "pipe")
    for stream_name in (tmp_path / "pipe", "/dev/null"):
        check_name(stream_name, (".json",))
    check_name(tmp_path / "new.json", (".csv", ".json"))
    for wrong in (path, tmp_path / "new.txt", tmp_path, "/dev/shm/new.txt"):
        with pytest.raises(InputError, match=rf"^--out {wrong}: expected a name that ends in .csv or .json"):
            check_name(wrong, (".csv", ".json"), "--out")


def test_what_is_added_is_added_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append_bytes(path, b"one,")
    append_bytes(path, b"two,")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(TraceError, match=f"^{path}: cannot write: File too large"):
            append_bytes(path, b"three")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"one,two,"


def test_who_writes_last_wins(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "x.txt") as temporary:
        assert list(tmp_path.iterdir()) == []  # nothing is there before it is whole
        temporary.write_text("late", encoding="utf-8")
        (tmp_path / "x.txt").write_text("early", encoding="utf-8")
    assert (tmp_path / "x.txt").read_text(encoding="utf-8") == "late"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_mount_point_is_written_into_and_other_errors_are_told(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("a longer old text", encoding="utf-8")
    inode = path.stat().st_ino
    with mock.patch("os.replace", side_effect=OSError(errno.EBUSY, "busy")):
        write_text(path, "new")
    assert (path.read_text(encoding="utf-8"), path.stat().st_ino) == ("new", inode)
    with mock.patch("os.replace", side_effect=OSError(errno.EPERM, "no")), pytest.raises(TraceError, match="no"):
        write_text(path, "newer")
    assert path.read_text(encoding="utf-8") == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_the_owner_is_kept(tmp_path: Path) -> None:
    write_text(tmp_path / "x.txt", "old")
    os.chown(tmp_path / "x.txt", 1234, 2345)
    write_text(tmp_path / "x.txt", "new")
    status = (tmp_path / "x.txt").stat()
    assert (status.st_uid, status.st_gid) == (1234, 2345)


def _fail_half_way(path: Path, error: BaseException) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise error


@pytest.mark.parametrize("nameless", [True, False])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, nameless: bool) -> None:
    path = tmp_path / "x.txt"
    write_text(path, "old")
    patch = mock.patch.object(
        writing, "_open_nameless", writing._open_nameless if nameless else mock.Mock(return_value=None)
    )
    with patch:
        for error in (RuntimeError(), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")):
            expected = TraceError if isinstance(error, OSError) else type(error)
            with pytest.raises(expected):
                _fail_half_way(path, error)
        assert path.read_text(encoding="utf-8") == "old"
        with atomic_path(path) as temporary:
            temporary.write_text("new", encoding="utf-8")
            assert path.read_text(encoding="utf-8") == "old"
    assert path.read_text(encoding="utf-8") == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_leaves_no_temporary_file(tmp_path: Path) -> None:
    script = (
        "import os, sys, signal\nfrom mallocgame.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as temporary:\n"
        "    temporary.write_bytes(b'half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "x.txt")], check=False, cwd=ROOT)
    assert list(tmp_path.iterdir()) == []


def test_the_next_writer_removes_what_a_dead_process_left(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    old, young, alive = (
        tmp_path / f".mallocgame-{process}-{name}.tmp"
        for process, name in ((dead.pid, "aa"), (dead.pid, "bb"), (os.getpid(), "cc"))
    )
    for path in (old, young, alive):
        path.touch()
    other = tmp_path / ".mallocgame-x-aa.tmp"  # nobody's that we know
    other.touch()
    for path in (old, alive, other):
        os.utime(path, (0, 0))
    with mock.patch.object(writing, "_open_nameless", return_value=None):
        write_text(tmp_path / "x.txt", "x")
    assert sorted(tmp_path.iterdir()) == sorted([young, alive, other, tmp_path / "x.txt"])
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "x.txt").stat().st_mode & 0o777 == 0o666 & ~mask


def test_what_a_process_of_somebody_else_left_stays(tmp_path: Path) -> None:
    theirs = tmp_path / ".mallocgame-1-aa.tmp"
    theirs.touch()
    os.utime(theirs, (0, 0))
    denied = mock.patch.object(writing.os, "kill", side_effect=PermissionError)
    with denied, mock.patch.object(writing, "_open_nameless", return_value=None):
        write_text(tmp_path / "x.txt", "x")
    assert theirs.exists()


@pytest.mark.parametrize("named", [False, True])
def test_a_new_file_has_the_mode_that_others_would_give_it(tmp_path: Path, named: bool) -> None:
    before = os.umask(0)
    try:
        with mock.patch.object(writing, "_open_nameless", return_value=None) if named else nullcontext():
            write_text(tmp_path / "x.txt", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "x.txt").stat().st_mode & 0o777 == 0o666


def test_memory_and_names_that_are_not_there_are_no_devices() -> None:
    assert not is_stream("/dev/none-such")
    assert is_stream("/dev/null")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "x.txt"
        path.write_text("old", encoding="utf-8")
        assert not is_stream(path)
        before = path.stat().st_ino
        write_text(path, "new")
        assert path.read_text(encoding="utf-8") == "new"
        assert path.stat().st_ino != before  # replaced, not written into


def test_outputs_are_checked_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    for path, reason in (
        (tmp_path, "is a folder"),
        (tmp_path / "socket", "is a socket"),
        (tmp_path / "no" / "x", "there is no folder"),
        (tmp_path / "file" / "x", "Not a directory"),
        (tmp_path / ("n" * 300), "too long"),
        (tmp_path / "a", "symbolic links"),
        ("a\0b", "null byte"),
    ):
        with pytest.raises(TraceError, match=reason):
            check_writable(path)
    (tmp_path / "link").symlink_to("file")
    with pytest.raises(TraceError, match="would be written twice"):
        check_writable(tmp_path / "file", None, tmp_path / "link")
    check_writable(tmp_path / "file", tmp_path / "other", None, "/dev/null", "/dev/null")
    check_writable(tmp_path / ("n" * 255))
    write_text(tmp_path / ("n" * 255), "x")
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize("allowed", [os.R_OK | os.W_OK, os.R_OK | os.X_OK])
def test_a_new_file_needs_a_folder_to_write_and_to_enter(tmp_path: Path, allowed: int) -> None:
    access = mock.patch("os.access", side_effect=lambda path, wanted: wanted & ~allowed == 0)
    with access, pytest.raises(TraceError, match="Permission denied"):
        check_writable(tmp_path / "new.txt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_permissions_are_checked_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir()
    kept = tmp_path / "locked" / "kept.txt"
    kept.write_text("old", encoding="utf-8")
    (tmp_path / "locked").chmod(0o555)
    with pytest.raises(TraceError, match="Permission denied"):
        check_writable(tmp_path / "locked" / "new.txt")
    write_text(kept, "new")  # the file may be written, its folder not
    assert kept.read_text(encoding="utf-8") == "new"
    kept.chmod(0o444)
    with pytest.raises(TraceError, match="Permission denied"):
        check_writable(kept)


def test_a_folder_is_checked_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, reason in (
        (tmp_path / "file", "is a file, expected a folder"),
        (tmp_path / "file" / "x", "Not a directory"),
        (tmp_path / ("n" * 300), "too long"),
    ):
        with pytest.raises(TraceError, match=reason):
            check_folder(path)
    check_folder(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


COMMANDS = [
    "pack in.csv --output {}",
    "convert lstm-v5e {}.csv",
    "capture mallocgame.workloads.models:lstm --out {}.json",
    "tune mallocgame.workloads.models:lstm --out {}",
    "train --workload lstm-v5e --steps 5 --out {}",
    "robust solve --method exact --out {}",
    "paging run cyclic:num_requests=100,num_pages=9 --k 3 --out {}.csv",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_refuse_outputs_before_they_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "in.csv").write_text("id,lower,upper,size\na,0,1,1\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    began = time.monotonic()
    result = run(monkeypatch, capsys, *command.format(tmp_path / "file" / "x").split())
    assert result.code == 2
    assert "cannot write" in result.err
    assert len(result.err.splitlines()) == 1
    assert time.monotonic() - began < 60


def test_every_byte_of_an_archive_of_arrays_is_checked() -> None:
    out = io.BytesIO()
    np.savez(out, a=np.arange(6, dtype=np.float32).reshape(2, 3), b=np.ones(4))
    whole = out.getvalue()
    assert load_arrays(io.BytesIO(whole))["a"].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    expected = {array.tobytes() for array in load_arrays(io.BytesIO(whole)).values()}
    misread = []
    for at in range(len(whole)):
        damaged = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        try:
            found = load_arrays(io.BytesIO(damaged))
        except (OSError, EOFError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error):
            continue
        if not {array.tobytes() for array in found.values()} <= expected:  # one may be missing: its name is asked for
            misread.append(at)
    assert misread == []
    large = io.BytesIO()
    np.savez(large, a=np.zeros((9000, 4)))
    fewer = io.BytesIO(large.getvalue().replace(b"(9000, 4)", b"(2000, 4)"))
    with np.load(fewer) as data:  # reads a part, and stops before the checksum
        assert data["a"].shape == (2000, 4)
    with pytest.raises(zipfile.BadZipFile, match="CRC"):
        load_arrays(fewer)
    spare = io.BytesIO()
    with zipfile.ZipFile(spare, "w") as archive:
        archive.writestr("a.npy", zipfile.ZipFile(io.BytesIO(whole)).read("a.npy") + b"x")
    with pytest.raises(ValueError, match="more than its array"):
        load_arrays(spare)
