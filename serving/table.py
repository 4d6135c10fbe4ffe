"""Answers to pictures as text: a table to read, CSV for a spreadsheet, JSON for a program."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

STYLES = ("table", "csv", "json")

Row = Mapping[str, Any]


def render(rows: Sequence[Row], style: str) -> str:
    """Writes rows that have the same keys, without a newline at the end.

    Args:
        rows: a value is text, a number, None, or a mapping from names to numbers.
        style: `table` shows four decimals and leaves mappings out; `csv` makes a column `KEY_NAME` of each of their
            entries; `json` gives a list of objects, everything as it is.
    """
    if style == "json":
        # Escaping everything but ASCII keeps file names that aren't UTF-8, and any terminal or pipe takes it.
        return json.dumps(list(rows), indent=1)
    if style == "csv":
        return _as_csv([_flattened(row) for row in rows])
    return _as_table([{key: value for key, value in row.items() if not isinstance(value, Mapping)} for row in rows])


def _as_csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _printable(value) for key, value in row.items()} for row in rows)
    return text.getvalue().rstrip("\n")


def _flattened(row: Row) -> Row:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        flat |= (
            {f"{key}_{name}": entry for name, entry in value.items()} if isinstance(value, Mapping) else {key: value}
        )
    return flat


def _as_table(rows: Sequence[Row]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    # A column that is empty in every row, such as that of the errors, would only push the others apart.
    columns = [key for key in columns if any(row.get(key) not in (None, "") for row in rows)]
    cells = [columns, *([_cell(row.get(key)) for key in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    is_number = [all(isinstance(row.get(key), int | float | None) for row in rows) for key in columns]
    lines = [
        "  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(*line, strict=True))
        for line in ((row, widths, is_number) for row in cells)
    ]
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(_printable(value))


def _printable(value: Any) -> Any:
    """Text whose bytes aren't UTF-8, or that would move the cursor, with those characters as escapes."""
    if not isinstance(value, str):
        return value
    text = value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
