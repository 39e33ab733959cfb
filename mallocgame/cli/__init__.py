"""The command line: thin wiring of workloads, solvers and the judge."""

import os
import sys
from typing import TYPE_CHECKING, NoReturn, TextIO

from mallocgame.cli import signals, streams

if TYPE_CHECKING:
    import typer


def __getattr__(name: str) -> "typer.Typer":
    if name == "app":
        from mallocgame.cli.commands import app

        return app
    raise AttributeError(name)


def main() -> NoReturn:
    """Run the command line.

    Exit codes: 0 done; 1 a negative answer (an invalid mapping); 2 bad input, or a file or a stream that cannot be
    read or written; 130 interrupted, 143 terminated, 129 the terminal was closed.
    """
    try:
        signals.catch_signals()
        streams.make_writable()
        code = _run()
    except KeyboardInterrupt:  # met in the middle of telling about something else
        code = _end("", 130)
    finally:
        signals.done()
    raise SystemExit(code)


def _run() -> int:
    """Return the exit code, after one line on standard error where something is to be said."""
    message = ""
    code = 2
    try:
        os.getcwd()
    except OSError:
        return _end("the folder that this was started in is there no more", code)
    try:
        from mallocgame.cli.commands import app

        code = app(prog_name="mallocgame", standalone_mode=False) or 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        pass  # told below, as where the command caught it
    except Exception as error:
        from mallocgame.cli.usage import cause_of_abort, is_of_usage
        from mallocgame.errors import InputError, is_interrupt

        error = cause_of_abort(error)

        if signals.received() is not None and is_interrupt(error):
            return _end("", code)
        from mallocgame.foreign import ANNOUNCED, users_traceback

        told = "" if isinstance(error, InputError) or is_of_usage(error) else users_traceback(error)
        if told:
            code = _end("", 1)
            _tell(f"mallocgame: {ANNOUNCED}\n{told}")
            return code
        message = _reason(error)
        if not message and not is_of_usage(error):
            raise
    return _end(message, code)


def _end(message: str, code: int) -> int:
    """Write out what is left, say why the command ended, and return the exit code; no signal raises any more."""
    try:
        message = _flush(sys.stdout) or message
        signals.done()
    except KeyboardInterrupt:
        signals.done()
    number = signals.received()
    if number is not None:
        code, message = 128 + number, signals.word(number)
    elif message:
        code = 2
    if message:
        _tell(f"mallocgame: {message}\n")
    return code


def _reason(error: Exception) -> str:
    """Return the line for an error that the user can mend; empty for a fault of ours, which keeps its traceback."""
    from mallocgame.cli.usage import is_of_usage, usage_line
    from mallocgame.errors import InputError, printable
    from mallocgame.foreign import at_users_place

    if is_of_usage(error):
        return printable(usage_line(error))
    if isinstance(error, InputError):
        return printable(f"{error}{at_users_place(error)}")
    if isinstance(error, OSError):
        where = "cannot write standard output or a file" if error.filename is None else error.filename
        return printable(f"{where}: {error.strerror or error}")
    return "there is not enough memory" if isinstance(error, MemoryError) else ""


def _flush(stream: TextIO) -> str:
    """Write out what ``stream`` still holds; return why it cannot be written, and let nobody try again."""
    try:
        stream.flush()
    except (OSError, ValueError) as error:
        _silence(stream)
        if isinstance(error, BrokenPipeError):
            return ""  # the reader has seen enough
        return f"cannot write standard output: {getattr(error, 'strerror', None) or error}"
    return ""


def _silence(stream: TextIO) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, stream.fileno())
    except (OSError, ValueError):
        return  # closed already
    finally:
        os.close(null)


def _tell(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        return  # nobody listens
