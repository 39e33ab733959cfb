"""Readers of the public instance formats and result tables (Arslan and Detienne, 2020): strict, one line per error."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mallocgame.errors import TraceError
from mallocgame.files import read_text

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberTable:
    """A first line of parameters and one line of numbers per item."""

    header: tuple[float, ...]
    items: F64  # float64[n, columns]


def read_number_table(path: str | Path, header_names: Sequence[str], item_names: Sequence[str] | None) -> NumberTable:
    """Read ``path``: a line with ``header_names`` (the first is the number of items), then one line per item.

    Args:
        path: the file.
        header_names: names of the parameters on the first line.
        item_names: names of the numbers on an item's line; None takes the count from the first item's line.

    Raises:
        TraceError: not UTF-8 text, a word that is not a finite number, a line with too few or too many numbers, a
            number of items that is not a positive integer, missing items, or anything after the last item.
    """
    lines = read_text(path).splitlines()
    rows = [(number, line.split()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not rows:
        raise TraceError(path, None, f"empty; expected a first line with {' '.join(header_names)}")
    header = _numbers(path, rows[0], header_names)
    count = header[0]
    if count != int(count) or not 1 <= count <= 1_000_000:
        raise TraceError(path, rows[0][0], f"{header_names[0]} is {count:g}; expected a positive whole number")
    body = rows[1:]
    if len(body) < count:
        raise TraceError(path, rows[-1][0], f"{len(body)} item lines; expected {count:.0f} as the first line says")
    if len(body) > count:
        number, words = body[int(count)]
        raise TraceError(path, number, f"unexpected {words[0]!r} after the last of {count:.0f} items; expected the end")
    names = item_names if item_names is not None else [f"value {k + 1}" for k in range(len(body[0][1]))]
    return NumberTable(header=header, items=np.array([_numbers(path, row, names) for row in body]))


def _numbers(path: str | Path, row: tuple[int, list[str]], names: Sequence[str]) -> tuple[float, ...]:
    number, words = row
    if len(words) != len(names):
        raise TraceError(path, number, f"{len(words)} numbers; expected {len(names)}: {' '.join(names)}")
    values = []
    for word, name in zip(words, names, strict=True):
        try:
            value = float(word)
        except ValueError:
            raise TraceError(path, number, f"{name} is {word!r}; expected a number") from None
        if not math.isfinite(value):
            raise TraceError(path, number, f"{name} is {word!r}; expected a finite number")
        values.append(value)
    return tuple(values)


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchAndPriceResult:
    """One row of a published branch-and-price table; the objective is a profit (larger is better)."""

    instance: str
    seconds: float  # inf when the published time limit was reached
    profit: float
    solved: bool  # proved optimal within the published time limit


def read_branch_and_price(path: str | Path) -> dict[str, BranchAndPriceResult]:
    """Return the published results by instance name.

    Raises:
        TraceError: no header, a row with too few columns, or a figure that is not a number.
    """
    text = read_text(path)
    try:
        rows = list(csv.reader(text.splitlines()))
    except csv.Error as error:
        raise TraceError(path, None, f"not comma-separated values: {error}") from None
    if not rows or len(rows[0]) < 6 or rows[0][0] != "File name":
        raise TraceError(path, 1, "expected the header 'File name,Time,Best primal bound,...' with six columns")
    results = {}
    for number, row in enumerate(rows[1:], start=2):
        if not any(word.strip() for word in row):
            continue
        if len(row) < 6:
            raise TraceError(path, number, f"{len(row)} columns; expected 6")
        try:
            seconds = math.inf if row[1].strip() == "TIME_LIMIT" else float(row[1])
            profit, solved = float(row[2]), float(row[5])
        except ValueError:
            raise TraceError(path, number, f"expected numbers in columns 2, 3 and 6; found {row[1:]}") from None
        name = row[0].strip()
        results[name] = BranchAndPriceResult(instance=name, seconds=seconds, profit=profit, solved=solved == 1)
    return results
