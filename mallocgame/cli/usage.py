"""What is wrong with a command line, in one line as any other bad input."""

from typing import Any


def is_of_usage(error: Any) -> bool:
    """Whether typer raised this of the words on the command line; its class is click's or a copy, by version."""
    return callable(getattr(error, "format_message", None)) and hasattr(error, "exit_code")


def usage_line(error: Any) -> str:
    """Return what was wrong, and which command's help says what is right; empty where the help itself was shown."""
    if type(error).__name__ == "NoArgsIsHelpError":  # with rich the help is printed already, and this shows nothing
        if error.format_message():
            error.show()
        return ""
    message = " ".join(error.format_message().split()).removesuffix(".")
    context = getattr(error, "ctx", None)
    return f"{message}; see {context.command_path if context else 'mallocgame'} --help" if message else ""


def cause_of_abort(error: Exception) -> Exception:
    """Return the EOFError of a command, of which typer makes an Abort; any other error as it is."""
    cause = error.__cause__
    return cause if type(error).__name__ == "Abort" and isinstance(cause, EOFError) else error
