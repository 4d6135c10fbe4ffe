"""Numbers as text: one formatting for the page, the model card and the terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

UNKNOWN = "\N{EN DASH}"


def percent(value: float | None) -> str:
    """0.9667 as `96.7 %`."""
    return UNKNOWN if value is None else f"{100 * value:.1f} %"


def decimal(value: float | None) -> str:
    """Three digits after the point."""
    return UNKNOWN if value is None else f"{value:.3f}"


def tenth(value: float | None) -> str:
    """One digit after the point, with a comma after each thousand."""
    return UNKNOWN if value is None else f"{value:,.1f}"


def count(value: int | None) -> str:
    """With a comma after each thousand."""
    return UNKNOWN if value is None else f"{value:,}"


def p_value(value: float) -> str:
    """Three digits after the point, and no false 0."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Lines with the first column to the left and the others to the right."""
    widths = [max(_width(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(_line(row, widths).rstrip() for row in rows)


def per_class(model: dict[str, Any]) -> str:
    """Precision, recall, F1 and support of each class, with their mean, as an aligned table."""
    rows = [["class", "precision", "recall", "F1", "images"]]
    for row in model["classes"]:
        shares = (decimal(row[name]) for name in ("precision", "recall", "f1"))
        rows.append([row["name"], *shares, count(row["support"])])
    macro = (decimal(model["macro"][name]) for name in ("precision", "recall", "f1"))
    return aligned([*rows, ["mean of classes", *macro, count(model["images"])]])


def confusion(model: dict[str, Any]) -> str:
    """The confusion matrix as an aligned table: a row a label, a column a prediction."""
    names = [row["name"] for row in model["classes"]]
    rows = [[name, *map(count, cells)] for name, cells in zip(names, model["confusion"], strict=True)]
    return aligned([["label \\ predicted", *names], *rows])


def _line(row: Sequence[str], widths: list[int]) -> str:
    padding = [" " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
    others = (space + cell for cell, space in zip(row[1:], padding[1:], strict=True))
    return "  ".join([row[0] + padding[0], *others])


def _width(text: str) -> int:
    """Terminals show East Asian letters two columns wide."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
