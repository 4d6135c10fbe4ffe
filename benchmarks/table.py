"""Measures, prints and stores the tables of the benchmarks: medians of several repeats, and ratios to one row."""

from __future__ import annotations

import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata

import tables

Measure = Callable[[], float]
Cells = Mapping[str, str | float]


@dataclass(frozen=True)
class Row:
    """One row of a table: the median and the range of a figure."""

    name: str
    median: float
    low: float
    high: float


def measure_side_by_side(contestants: Mapping[str, Measure], repeats: int) -> list[Row]:
    """Runs all contestants in turn, `repeats` times, so that a slow minute of the machine affects all of them."""
    values: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, measure in contestants.items():
            values[name].append(measure())
    return [Row(name, statistics.median(v), min(v), max(v)) for name, v in values.items()]


def as_markdown(title: str, unit: str, rows: list[Row], *, compare: str) -> str:
    """The table in Markdown; the last column is the ratio of each row to the row `compare`."""
    base = next(row.median for row in rows if row.name == compare)
    lines = [f"### {title}", "", f"| | {unit} | range | times {compare} |", "| --- | ---: | ---: | ---: |"]
    lines += [
        f"| {row.name} | {row.median:,.1f} | {row.low:,.1f} to {row.high:,.1f} | {row.median / base:.2f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def as_text(rows: Sequence[Cells]) -> str:
    """Rows that have the same keys as aligned lines below a header, floats with four decimals."""
    columns = list(rows[0])
    is_number = [all(isinstance(row[key], int | float) for row in rows) for key in columns]
    return tables.aligned([columns, *([_cell(row[key]) for key in columns] for row in rows)], is_number)


def _cell(value: str | float) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def machine() -> dict[str, str]:
    """Processor, library versions and date of the measurement."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": f"{os.cpu_count()} cores of {names[0] if names else platform.machine()}",
        "versions": ", ".join(f"{name} {metadata.version(name)}" for name in ("tensorflow", "keras")),
        "date": time.strftime("%Y-%m-%d"),
    }


def write_json(path: str, tables: dict[str, list[Row]]) -> None:
    """Stores the rows of all tables with the machine they were measured on."""
    content = {"machine": machine(), "tables": {title: [asdict(row) for row in rows] for title, rows in tables.items()}}
    pathlib.Path(path).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def seconds_of(work: Callable[[], object]) -> float:
    """Wall-clock seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
