"""Figures and counts as people read them, and strings from files on their way to a spreadsheet or to matplotlib."""

from typing import Any

from mallocgame.errors import printable

FORMULA = ("=", "+", "-", "@")  # how a cell begins that a spreadsheet would run


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural where it is not one.

    >>> counted(1, "copy"), counted(2, "copy"), counted(0, "step")
    ('1 copy', '2 copies', '0 steps')
    """
    several = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else several}"


def seconds_text(seconds: float | None) -> str:
    """Return a time with a fitting unit; empty for None.

    >>> seconds_text(0.00123456), seconds_text(2.5e-06), seconds_text(None)
    ('1.2346 ms', '2.5000 µs', '')
    """
    if seconds is None:
        return ""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.4f} {unit}"
    return f"{seconds / 1e-9:.4f} ns" if seconds else "0 s"


def bytes_text(size: int) -> str:
    """Return a size in binary units.

    >>> bytes_text(512), bytes_text(117440512)
    ('512 B', '112.0 MiB')
    """
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{int(value)} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def cell(value: Any) -> Any:
    """Return a value as a spreadsheet may see it: an apostrophe keeps text from being run as a formula.

    A text that begins with apostrophes and goes on as a formula gets one more, so that ``from_cell`` is its inverse.

    >>> cell("=1+1"), cell("-2"), cell(-2), cell("lstm")
    ("'=1+1", '-2', -2, 'lstm')
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    digits = text.removeprefix("-").removeprefix("+")
    runs = text.lstrip("'").startswith(FORMULA) and not (digits.isascii() and digits.isdigit())
    return f"'{text}" if runs else text


def from_cell(text: str) -> str:
    """Return the text that ``cell`` wrote.

    >>> from_cell("'=1+1"), from_cell("'quoted'")
    ('=1+1', "'quoted'")
    """
    return text[1:] if text[:1] == "'" and text.lstrip("'").startswith(FORMULA) else text


def label(text: str) -> str:
    """Return a name as matplotlib draws it letter by letter: a dollar sign begins no formula, line breaks stay.

    >>> print(label("a$b$"))
    a\\$b\\$
    """
    return "\n".join(map(printable, text.split("\n"))).replace("$", r"\$")
