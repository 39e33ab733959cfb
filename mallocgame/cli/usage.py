"""What is wrong with a command line, in one line as any other bad input."""

from typing import Any


def is_of_usage(error: Any) -> bool:
    """Whether typer raised this of the words on the command line; its class is click's or a copy, by version."""
    return callable(getattr(error, "format_message", None)) and hasattr(error, "exit_code")


def usage_line(error: Any) -> str:
    """Return what was wrong, and which command's help says what is right; empty where the help itself was shown."""
    message = " ".join(error.format_message().split()).removesuffix(".")
    context = getattr(error, "ctx", None)
    return f"{message}; see {context.command_path if context else 'mallocgame'} --help" if message else ""
