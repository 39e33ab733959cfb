"""Files written whole or not at all, as what they are: through links, with their mode, devices and pipes in place."""

import errno
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mallocgame.errors import InputError, TraceError
from mallocgame.files.kinds import StrPath, kind_of, refuse

_STALE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """Where an output goes, links followed: ``status`` is None for a new file."""

    path: Path
    status: os.stat_result | None
    in_place: bool  # a device, a pipe, or a file in a folder that cannot be written: opened as it is


def check_writable(*paths: StrPath | None) -> None:
    """See before the work that each of ``paths`` can be written after it; nothing is created or opened.

    Raises:
        TraceError: a folder or socket, a folder that does not exist, no permission, a name that is too long, a loop of
            links; two paths of one file, by whatever names (a device or a pipe takes several).
    """
    targets = [_target(path) for path in paths if path is not None]
    files = [target.path for target in targets if not target.in_place]
    for number, path in enumerate(files):
        if path in files[:number]:
            raise TraceError(path, None, "would be written twice; name the outputs apart")


def check_name(path: StrPath, suffixes: tuple[str, ...], option: str = "") -> None:
    """See that the name of an output says what it will hold; a device or a pipe has another, and takes the first kind.

    Raises:
        InputError: it ends in none of ``suffixes``.
    """
    if not os.fspath(path).endswith(suffixes) and not is_stream(path):
        raise InputError(f"{option} {path}: expected a name that ends in {' or '.join(suffixes)}".lstrip())


def is_stream(path: StrPath) -> bool:
    """Tell whether a path is a device or a pipe, or, as /dev/stdout, stands for one."""
    try:
        status = _status(path)
    except (OSError, ValueError):
        return False  # told by who opens it
    special = status is not None and (stat.S_ISFIFO(status.st_mode) or stat.S_ISCHR(status.st_mode))
    return special or (status is not None and _is_system(Path(os.path.abspath(path))))


def check_folder(path: StrPath) -> None:
    """See before the work that a folder can be made, or written into, after it; nothing is created.

    Raises:
        TraceError: a file is in the way, no permission, a name that is too long.
    """
    try:
        place = Path(os.path.realpath(path))
        while (status := _status(place)) is None:
            place = place.parent
        if not stat.S_ISDIR(status.st_mode):
            raise TraceError(path, None, f"cannot write: {place} is {kind_of(status)}, expected a folder")
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except (OSError, ValueError) as error:
        refuse(path, error, "write")


@contextmanager
def atomic_path(path: StrPath) -> Iterator[Path]:
    """Yield the path of a temporary file; on success its content becomes ``path``, on any error nothing happens.

    Links are followed, the mode (and, where allowed, the owner) of a file that is replaced is kept, devices and pipes
    are written to as they are. On Linux the temporary file has no name, so that not even a kill leaves one behind;
    elsewhere the next writer removes what dead processes left.

    Raises:
        TraceError: ``path`` cannot be written, the disk is full.
    """
    target = _target(path)
    try:
        with _temporary(target) as (descriptor, temporary, nameless):
            yield temporary
            if target.in_place:
                _copy(temporary, target.path)
            else:
                _publish(descriptor, temporary, nameless, target)
    except OSError as error:
        refuse(path, error, "write")


def write_text(path: StrPath, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path`` (``atomic_path``)."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: StrPath, data: bytes) -> None:
    """Write ``data`` to ``path`` (``atomic_path``)."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def append_bytes(path: StrPath, data: bytes) -> None:
    """Add ``data`` to the end of a file, all of it or nothing; a file that is not there is made.

    Raises:
        TraceError: ``path`` cannot be written, the disk is full.
    """
    try:
        with open(path, "ab", buffering=0) as file:
            size_bytes, rest = file.tell(), memoryview(data)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError:
                file.truncate(size_bytes)
                raise
    except OSError as error:
        refuse(path, error, "write")


def _target(path: StrPath) -> _Target:
    try:
        status = _status(path)
        if status is not None and (stat.S_ISDIR(status.st_mode) or stat.S_ISSOCK(status.st_mode)):
            raise TraceError(path, None, f"cannot write: is {kind_of(status)}, expected the name of a file")
        special = status is not None and not stat.S_ISREG(status.st_mode)
        resolved = Path(path) if special else Path(os.path.realpath(path))
        if special or _is_system(resolved) or _is_system(Path(os.path.abspath(path))):
            if status is None:  # root could make a plain file there
                raise TraceError(path, None, "cannot write: there is no such device or stream")
            return _Target(path=Path(path), status=status, in_place=True)
        if not resolved.parent.is_dir():
            raise TraceError(path, None, f"cannot write: there is no folder {resolved.parent}")
        free = os.access(resolved.parent, os.W_OK | os.X_OK)
        if not (free if status is None else os.access(resolved, os.W_OK)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return _Target(path=resolved, status=status, in_place=not free)
    except (OSError, ValueError) as error:
        refuse(path, error, "write")


def _status(path: StrPath) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _is_system(path: Path) -> bool:
    return path.parts[:2] in (("/", "dev"), ("/", "proc")) and path.parts[:3] != ("/", "dev", "shm")


@contextmanager
def _temporary(target: _Target) -> Iterator[tuple[int, Path, bool]]:
    """Yield (descriptor, path, whether it is nameless) of an empty file where ``target`` can be reached by a rename."""
    folder = Path(tempfile.gettempdir()) if target.in_place else target.path.parent
    descriptor = _open_nameless(folder)
    if descriptor is not None:
        try:
            yield descriptor, Path(f"/proc/{os.getpid()}/fd/{descriptor}"), True
        finally:
            os.close(descriptor)
        return
    _sweep(folder)
    name = _temporary_name(folder)
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        yield descriptor, name, False
    finally:
        os.close(descriptor)
        name.unlink(missing_ok=True)


def _open_nameless(folder: Path) -> int | None:
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
    except (OSError, AttributeError):  # a system or a file system without them
        return None
    if os.path.exists(f"/proc/{os.getpid()}/fd/{descriptor}"):
        return descriptor
    os.close(descriptor)
    return None


def _temporary_name(folder: Path) -> Path:
    return folder / f".mallocgame-{os.getpid()}-{os.urandom(6).hex()}.tmp"


def _publish(descriptor: int, temporary: Path, nameless: bool, target: _Target) -> None:
    """Give the temporary file the target's name."""
    if target.status is not None:
        _take_after(descriptor, target.status)
    try:
        if nameless and target.status is None:
            os.link(temporary, target.path, src_dir_fd=descriptor)  # the argument makes it follow the link in /proc
            return
    except FileExistsError:
        pass  # somebody wrote it meanwhile: the later one wins
    if nameless:
        _sweep(target.path.parent)
        name = _temporary_name(target.path.parent)
        os.link(temporary, name, src_dir_fd=descriptor)
    else:
        name = temporary
    try:
        os.replace(name, target.path)
    except OSError as error:
        name.unlink(missing_ok=True)
        if error.errno != errno.EBUSY:
            raise
        _copy(Path(f"/proc/{os.getpid()}/fd/{descriptor}"), target.path)  # a mount point of its own


def _take_after(descriptor: int, old: os.stat_result) -> None:
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
    now = os.fstat(descriptor)
    if (now.st_uid, now.st_gid) != (old.st_uid, old.st_gid):
        try:
            os.fchown(descriptor, old.st_uid, old.st_gid)
        except OSError:
            return  # only the owner of both, or root, may


def _copy(source: Path, target: Path) -> None:
    """Write the content of ``source`` into ``target`` as it is; what stood in a regular file goes."""
    regular = target.is_file() and not _is_system(Path(os.path.abspath(target)))
    flags = os.O_WRONLY | (os.O_TRUNC if regular else os.O_APPEND)
    with source.open("rb") as read, os.fdopen(os.open(target, flags), "wb") as write:
        shutil.copyfileobj(read, write)


def _sweep(folder: Path) -> None:
    """Remove temporary files of processes that are no more."""
    for entry in folder.glob(".mallocgame-*-*.tmp"):
        process = entry.name.split("-")[1]
        try:
            if (
                process.isdecimal()
                and time.time() - entry.stat().st_mtime > _STALE_SECONDS
                and not _lives(int(process))
            ):
                entry.unlink()
        except OSError:
            continue  # somebody else was faster


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
