"""Errors that a user can cause and should be able to mend from one line of text."""

from typing import Any

_LONGEST = 2000  # characters of a message: a file can hold a line of megabytes


def printable(text: str) -> str:
    r"""Return ``text`` on one line, with everything that is not printable written as an escape.

    What a file says reaches the terminal only like this: escape sequences, line breaks and marks that turn the
    direction of writing would let it speak in our name.

    >>> printable("a\x1b[31mb\u202e\nc")
    'a\\x1b[31mb\\u202e c'
    """
    if text.isprintable():
        return text
    line = text.rstrip().replace("\n", " ").replace("\t", " ")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def _one_line(text: str) -> str:
    line = printable(text[: 2 * _LONGEST])
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


class InputError(ValueError):
    """Bad input: the message says what is wrong, where, and what was expected, in one line.

    The command line prints the message alone and exits with code 2; it never shows a traceback for it.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(_one_line(str(message)))


class TraceError(InputError):
    """A file that cannot be read as what it claims to be: ``FILE:LINE: reason``."""

    def __init__(self, path: object, line: int | None, reason: str) -> None:
        self.line, self.reason = line, reason
        where = f"{path}:{line}" if line is not None else f"{path}"
        super().__init__(f"{where}: {reason}")

    def __reduce__(self) -> tuple[Any, ...]:
        state = {"line": self.line, "reason": self.reason}
        return _same, (type(self), str(self)), state  # a worker process hands its error over by pickle


class MissingExtraError(InputError):
    """An optional dependency is absent; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; install it with: pip install 'mallocgame[{extra}]'")

    def __reduce__(self) -> tuple[Any, ...]:
        return _same, (type(self), str(self))


def _same(kind: type[InputError], message: str) -> InputError:
    error = kind.__new__(kind)
    InputError.__init__(error, message)
    return error


def is_interrupt(error: BaseException) -> bool:
    """Whether an error is Ctrl-C, or the SystemError that a kernel's call makes of it where it meets it midway."""
    return isinstance(error, KeyboardInterrupt) or isinstance(error.__cause__, KeyboardInterrupt)
