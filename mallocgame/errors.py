"""Errors that a user can cause and should be able to mend from one line of text."""


class InputError(ValueError):
    """Bad input: the message says what is wrong, where, and what was expected, in one line.

    The command line prints the message alone and exits with code 2; it never shows a traceback for it.
    """


class TraceError(InputError):
    """A file that cannot be read as what it claims to be: ``FILE:LINE: reason``."""

    def __init__(self, path: object, line: int | None, reason: str) -> None:
        where = f"{path}:{line}" if line is not None else f"{path}"
        super().__init__(f"{where}: {reason}")


class MissingExtraError(InputError):
    """An optional dependency is absent; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; install it with: pip install 'mallocgame[{extra}]'")
