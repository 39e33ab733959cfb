"""Strings from files on their way to what would interpret them: a spreadsheet, matplotlib."""

from typing import Any

from mallocgame.errors import printable

FORMULA = ("=", "+", "-", "@")  # how a cell begins that a spreadsheet would run


def cell(value: Any) -> Any:
    """Return a value as a spreadsheet may see it: an apostrophe keeps text from being run as a formula.

    >>> cell("=1+1"), cell("-2"), cell(-2), cell("lstm")
    ("'=1+1", '-2', -2, 'lstm')
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    digits = text.removeprefix("-").removeprefix("+")
    return f"'{text}" if text.startswith(FORMULA) and not (digits.isascii() and digits.isdigit()) else text


def label(text: str) -> str:
    """Return a name as matplotlib draws it letter by letter: a dollar sign begins no formula, line breaks stay.

    >>> print(label("a$b$"))
    a\\$b\\$
    """
    return "\n".join(map(printable, text.split("\n"))).replace("$", r"\$")
