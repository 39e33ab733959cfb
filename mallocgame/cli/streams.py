"""Standard output and error as a stranger's machine has them: closed, or of an encoding without a µ. Imports little."""

import codecs
import os
import sys
import unicodedata

_PLAIN = {
    "µ": "u",
    "×": "x",
    "÷": "/",
    "−": "-",
    "–": "-",
    "—": "-",
    "…": "...",
    "→": "->",
    "←": "<-",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "≈": "~",
    "∞": "inf",
    "±": "+-",
    "·": ".",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
}


def make_writable() -> None:
    """Let every character be written to both streams; what nobody wants to read goes nowhere."""
    codecs.register_error("mallocgame.plain", _in_plain_letters)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # started with the stream closed
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure") and stream.errors in ("strict", "surrogateescape", "backslashreplace"):
            stream.reconfigure(errors="mallocgame.plain")


def _in_plain_letters(error: UnicodeError) -> tuple[str, int]:
    """Return what stands for characters that an encoding lacks: figures keep their unit, names their escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(map(_plain, text)), error.end


def _plain(character: str) -> str:
    found = _PLAIN.get(character) or unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return found or ascii(character)[1:-1]
