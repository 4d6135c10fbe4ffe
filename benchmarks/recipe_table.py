"""What the recipes gave: recipes/measured.json, and what is made from it: RESULTS.md, each recipe's figure, a table.

Nothing of it is written by hand. A row carries the commit of its runs and a digest of itself, and a test makes the
texts again, so that an edit of any of them is noticed.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import pathlib
import re
import statistics
from dataclasses import dataclass, field
from typing import Any

from benchmarks import table

SCALES = ("quick", "full")

# A row of one recipe at one scale, as it stands in the JSON file.
Row = dict[str, Any]

_ABOUT = """# What the recipes gave

Written by `python -m benchmarks.reproduce` from `recipes/measured.json`; don't edit it by hand. All seeds of a row
share the test split. The interval is Wilson's 95 % interval for the mean accuracy on its images (MNIST: its own 10,000;
cats and dogs: 240 of 2,400). MAE is the mean absolute error of the brightness, in 0-1. On a busy machine, which other
programs shared, an epoch takes several times too long. `commit` is that of the program that trained.
"""
_SECTIONS = {
    "quick": "\n## Quick\n\nThe command shows where epochs, images or their size are less than the recipe says.\n\n",
    "full": "\n## Full\n\nThe recipes as they are.\n\n",
}
# The README's table: recipe, and what it is for a reader who doesn't know the recipes.
_HIGHLIGHTS = {
    "catdog_squeezenet_freeze": "SqueezeNet with ImageNet weights, frozen, a new head; 1,920 cats and dogs to train on",
    "catdog_squeezenet_freeze_10percent": "the same with 240 images",
    "catdog_squeezenet_scratch": "the same network from random weights, 1,920 images",
    "catdog_squeezenet_scratch_10percent": "from random weights, 240 images",
    "mnist_lenet5": "LeNet-5 on MNIST",
    "mnist_bn_mlp": "MLP with batch normalization on MNIST",
    "mnist_plain_mlp": "the same MLP without it",
}
_BLOCK = re.compile(r"(<!-- measured -->\n).*(<!-- end of measured -->)", re.DOTALL)

_HEADER = (
    "| recipe | command | seeds | test accuracy | 95 % interval | seconds per epoch | hardware | date | commit |\n"
    "| --- | --- | ---: | --- | --- | ---: | --- | --- | --- |\n"
)


@dataclass
class Outcome:
    """What became of one recipe: its runs by seed, or why there are none."""

    recipe: str
    command: str
    runs: list[pathlib.Path] = field(default_factory=list)
    reason: str = ""


class Measured:
    """The rows by scale and recipe, kept in one JSON file.

    Args:
        path: of the file, which need not exist.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self._rows: dict[str, dict[str, Row]] = {scale: stored.get(scale, {}) for scale in SCALES}

    def rows(self, scale: str) -> dict[str, Row]:
        """The rows of one scale by recipe."""
        return self._rows[scale]

    def add(self, outcome: Outcome, scale: str, hardware: str | None) -> None:
        """Replaces the recipe's row, unless it has figures and this outcome has none, and writes the file.

        Args:
            outcome: of the recipe's runs.
            scale: `quick` or `full`.
            hardware: for the table; None names this machine's processor.
        """
        rows = self._rows[scale]
        if outcome.runs or "seeds" not in rows.get(outcome.recipe, {}):
            rows[outcome.recipe] = _signed(_row(outcome, hardware))
        ordered = {name: {recipe: rows[recipe] for recipe in sorted(rows)} for name, rows in self._rows.items()}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def markdown(self) -> str:
        """The content of RESULTS.md."""
        sections = [
            _SECTIONS[scale] + _HEADER + "".join(_line(recipe, row) for recipe, row in sorted(rows.items()))
            for scale, rows in self._rows.items()
            if rows
        ]
        return _ABOUT + "".join(sections)


def with_highlights(readme: str, measured: Measured) -> str:
    """`readme` with its measured block made anew: the best-known experiments, and what pretraining is worth in them."""
    rows = {name: row for name, row in measured.rows("quick").items() if name in _HIGHLIGHTS and "seeds" in row}
    lines = ["| what | recipe | test accuracy | seeds | 95 % interval |", "| --- | --- | --- | ---: | --- |"]
    lines += [_highlight(name, rows[name]) for name in _HIGHLIGHTS if name in rows]
    gaps = [
        f"{100 * (accuracy(rows[frozen]) - accuracy(rows[scratch])):.0f} points with {images} images"
        for frozen, scratch, images in (
            ("catdog_squeezenet_freeze", "catdog_squeezenet_scratch", "1,920"),
            ("catdog_squeezenet_freeze_10percent", "catdog_squeezenet_scratch_10percent", "240"),
        )
        if {frozen, scratch} <= set(rows)
    ]
    if gaps:
        lines += ["", f"After equally many epochs the pretrained SqueezeNet is ahead by {' and '.join(gaps)}."]
    return _BLOCK.sub(lambda block: block[1] + "\n".join(lines) + "\n" + block[2], readme)


def _highlight(name: str, row: Row) -> str:
    low, high = interval(row)
    cells = [_HIGHLIGHTS[name], f"`{name}`", f"{100 * accuracy(row):.1f} %", len(row["seeds"])]
    return f"| {' | '.join(map(str, cells))} | {100 * low:.1f} to {100 * high:.1f} % |"


def is_unchanged(row: Row) -> bool:
    """Whether a row is as the command wrote it."""
    return _signed({name: value for name, value in row.items() if name != "sha256"}) == row


def figure(row: Row) -> str:
    """The comment line with which a recipe says what was measured."""
    if "seeds" not in row:
        return f"# Measured: {row['reason']}."
    low, high = interval(row)
    count = len(row["seeds"])
    seeds = f"{count} seed{'s' if count > 1 else ''}"
    smaller = " ".join(re.findall(r" --(\w+=[\w.]+)", row["command"].split(".flags", 1)[1]))
    with_flags = f" with {smaller}" if smaller else ""
    error = mean(row, "brightness_mae")
    brightness = "" if math.isnan(error) else f"; brightness MAE {error:.3f}"
    return (
        f"# Measured: {100 * accuracy(row):.1f} % ({seeds}, 95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
        f"{with_flags}{brightness}."
    )


def accuracy(row: Row) -> float:
    """The mean test accuracy over the seeds."""
    return mean(row, "accuracy")


def mean(row: Row, metric: str) -> float:
    """The mean of a test metric over the seeds; NaN where it was not measured."""
    values = [seed[metric] for seed in row["seeds"] if metric in seed]
    return statistics.mean(values) if values else math.nan


def interval(row: Row) -> tuple[float, float]:
    """Wilson's 95 % interval (1927) for the mean accuracy, with the number of test images as the number of trials."""
    share, count, z = accuracy(row), row["test_images"], 1.959964
    middle = share + z * z / (2 * count)
    reach = z * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    return (middle - reach) / (1 + z * z / count), (middle + reach) / (1 + z * z / count)


def _signed(row: Row) -> Row:
    return row | {"sha256": hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:16]}


def _row(outcome: Outcome, hardware: str | None) -> Row:
    if not outcome.runs:
        return {"command": outcome.command, "reason": outcome.reason}
    machine = table.machine()
    return {
        "command": outcome.command,
        "seeds": [_seed(run) for run in outcome.runs],
        "test_images": _num_tested(outcome.runs[0]),
        "seconds_per_epoch": statistics.median(value for run in outcome.runs for value in _epoch_seconds(run)),
        "hardware": hardware or machine["processor"],
        "date": machine["date"],
    }


def _seed(run: pathlib.Path) -> Row:
    metrics = json.loads((run / "test.json").read_text(encoding="utf-8"))
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    row = {"seed": config["flags"]["seed"], "commit": config["git_commit"]}
    row["accuracy"] = metrics.get("accuracy", metrics.get("class_accuracy"))
    return row | {name: metrics[name] for name in ("brightness_mae",) if name in metrics}


def _line(recipe: str, row: Row) -> str:
    start = f"| {recipe} | `{row['command']}` |"
    if "seeds" not in row:
        return f"{start} | {row['reason']} | | | | | |\n"
    values = [seed["accuracy"] for seed in row["seeds"]]
    spread = f" ({min(values):.2%} to {max(values):.2%})" if len(values) > 1 else ""
    error = mean(row, "brightness_mae")
    spread += "" if math.isnan(error) else f", MAE {error:.3f}"
    low, high = interval(row)
    commits = dict.fromkeys(_short(seed["commit"]) for seed in row["seeds"])
    cells = [len(values), f"{accuracy(row):.2%}{spread}", f"{low:.1%} to {high:.1%}", f"{row['seconds_per_epoch']:.1f}"]
    return f"{start} {' | '.join([*map(str, cells), row['hardware'], row['date'], ', '.join(commits)])} |\n"


def _short(commit: str | None) -> str:
    """Ten digits of a commit, and whether files differed from it."""
    return "unknown" if commit is None else commit[:10] + ("-dirty" if commit.endswith("-dirty") else "")


def _num_tested(run: pathlib.Path) -> int:
    with (run / "splits.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return sum(row.get("split", row.get("part")) == "test" for row in csv.DictReader(file))


def _epoch_seconds(run: pathlib.Path) -> list[float]:
    """Without the first epoch, which waits for the graph to be built, unless it is the only one."""
    header, *rows = (run / "history.csv").read_text(encoding="utf-8").splitlines()
    column = header.split(",").index("seconds")
    seconds = [float(row.split(",")[column]) for row in rows]
    return seconds[1:] or seconds
