"""Numbers and tables as text, for the terminal, the report and the model card alike."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

UNKNOWN = "\N{EN DASH}"


def percent(value: float | None) -> str:
    """0.9667 as `96.7 %`."""
    return UNKNOWN if value is None else f"{100 * value:.1f} %"


def decimal(value: float | None) -> str:
    """Three decimal places."""
    return UNKNOWN if value is None else f"{value:.3f}"


def tenth(value: float | None) -> str:
    """One decimal place, with commas between thousands."""
    return UNKNOWN if value is None else f"{value:,.1f}"


def count(value: int | None) -> str:
    """With commas between thousands."""
    return UNKNOWN if value is None else f"{value:,}"


def p_value(value: float) -> str:
    """Three decimal places; `< 0.001` below that."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def aligned(rows: Sequence[Sequence[str]], is_number: Sequence[bool] | None = None) -> str:
    """A line per row. Columns of numbers are right-aligned: as `is_number` says, else all but the first."""
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    is_number = is_number or [False] + [True] * (len(widths) - 1)
    return "\n".join(line(row, widths, is_number) for row in rows)


def line(cells: Sequence[str], widths: Sequence[int], is_number: Sequence[bool]) -> str:
    """One row of a table whose rows aren't all known at once; a cell that is too long shifts the next ones."""
    padded = []
    for cell, wanted, to_the_right in zip(cells, widths, is_number, strict=True):
        padding = " " * (wanted - width(cell))
        padded.append(padding + cell if to_the_right else cell + padding)
    return "  ".join(padded).rstrip()


def width(text: str) -> int:
    """The terminal columns that `text` takes: wide East Asian characters take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
