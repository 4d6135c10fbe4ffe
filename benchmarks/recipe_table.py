"""The table of what the recipes gave, RESULTS.md: one row a recipe, added or replaced one at a time."""

from __future__ import annotations

import csv
import json
import pathlib
import re
import statistics
from dataclasses import dataclass, field

from benchmarks import table

_HEADER = "| recipe | command | seeds | test accuracy | 95 % interval | seconds an epoch | hardware |"
_ABOUT = """# What the recipes gave

Scale: `{scale}`.{smaller}
Written by `python -m benchmarks.reproduce`, a row at a time. All seeds share the test part; the interval is Wilson's
95 % interval for the mean accuracy on its pictures. MNIST: its own 10,000; cats and dogs: 240 of 2,400. MAE is the
mean absolute error of the brightness, in 0-1. On a busy machine, which other programs shared, an epoch takes several
times too long.

"""


@dataclass
class Outcome:
    """What became of one recipe: its runs by seed, or why there are none."""

    recipe: str
    command: str
    runs: list[pathlib.Path] = field(default_factory=list)
    reason: str = ""


def add(path: pathlib.Path, outcome: Outcome, scale: str, hardware: str | None) -> None:
    """Writes the table at `path` anew with this outcome in it.

    The rows of other recipes stay, and so does the recipe's own where it has figures and this outcome has none.

    Args:
        path: of the table, which need not be there.
        outcome: the new row.
        scale: `quick` or `full`.
        hardware: for the row's last column; None names this machine's processor.
    """
    rows = read(path, scale)
    if outcome.runs or outcome.recipe not in rows or "not run" in rows[outcome.recipe]:
        rows[outcome.recipe] = _row(outcome, hardware or table.machine()["processor"])
    smaller = (
        " The command shows where epochs, pictures or their size are less than the recipe says."
        if scale == "quick"
        else ""
    )
    lines = [_HEADER, "| --- | --- | --- | --- | --- | --- | --- |", *(rows[name] for name in sorted(rows))]
    path.write_text(_ABOUT.format(scale=scale, smaller=smaller) + "\n".join(lines) + "\n", encoding="utf-8")


def read(path: pathlib.Path, scale: str) -> dict[str, str]:
    """The table's lines by recipe; empty where there is no table of this scale."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if f"Scale: `{scale}`" not in text:
        return {}
    return {match[1]: match[0] for match in re.finditer(r"^\| (\w+) \| `python .*$", text, re.MULTILINE)}


def _row(outcome: Outcome, hardware: str) -> str:
    start = f"| {outcome.recipe} | `{outcome.command}` |"
    if not outcome.runs:
        return f"{start} | {outcome.reason} | | | |"
    tests = [json.loads((run / "test.json").read_text(encoding="utf-8")) for run in outcome.runs]
    accuracies = [metrics.get("accuracy", metrics.get("class_accuracy")) for metrics in tests]
    seconds = [value for run in outcome.runs for value in _epoch_seconds(run)]
    mean = statistics.mean(accuracies)
    spread = f" ({min(accuracies):.2%} to {max(accuracies):.2%})" if len(accuracies) > 1 else ""
    errors = [metrics["brightness_mae"] for metrics in tests if "brightness_mae" in metrics]
    spread += f", MAE {statistics.mean(errors):.3f}" if errors else ""
    low, high = _wilson(mean, _num_tested(outcome.runs[0]))
    cells = [len(accuracies), f"{mean:.2%}{spread}", f"{low:.1%} to {high:.1%}", f"{statistics.median(seconds):.1f}"]
    return f"{start} {' | '.join(map(str, cells))} | {hardware} |"


def _num_tested(run: pathlib.Path) -> int:
    with (run / "splits.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return sum(row["part"] == "test" for row in csv.DictReader(file))


def _epoch_seconds(run: pathlib.Path) -> list[float]:
    """Without the first epoch, which waits for the graph to be built, unless it is the only one."""
    header, *rows = (run / "history.csv").read_text(encoding="utf-8").splitlines()
    column = header.split(",").index("seconds")
    seconds = [float(row.split(",")[column]) for row in rows]
    return seconds[1:] or seconds


def _wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval (1927) for a share seen in `count` trials."""
    z = 1.959964
    middle = share + z * z / (2 * count)
    reach = z * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    return (middle - reach) / (1 + z * z / count), (middle + reach) / (1 + z * z / count)
