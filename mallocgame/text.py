"""Words for counts, and strings from files on their way to what would interpret them: a spreadsheet, matplotlib."""

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
