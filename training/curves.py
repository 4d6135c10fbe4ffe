"""Learning curves of all phases, as an image, and the style and colors that the report shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from data.files import replacing_from_local

# The report replaces exactly these colors by its style sheet's: its plots follow the reader's light or dark theme.
INK, FAINT, PAPER = "#1f2933", "#9aa5b1", "#fffffe"
# Okabe and Ito's palette, which color-blind readers can tell apart.
BLUE, ORANGE, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#cc79a7"

STYLE: dict[Any, Any] = {
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.facecolor": PAPER,
    "font.size": 10,
    "grid.alpha": 0.35,
    "grid.color": FAINT,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}

# Columns of history.csv that say how an epoch was made, not how good it is.
_NOT_METRICS = ("epoch", "phase", "learning_rate", "seconds")
_TITLES = {"loss": "Loss: lower is better", "accuracy": "Accuracy: higher is better"}
_UNITS = {"accuracy": "fraction of images", "mae": "mean absolute error", "loss": "loss"}
_STARTS = {"fine_tune": "everything unfrozen", "head": "new head only", "all": "everything trains"}


def plot_curves(history: Sequence[Mapping[str, str | float]], path: str, kept: int | None = None) -> None:
    """Writes the learning curves to `path` (.png or .svg), whole or not at all.

    Args:
        history: a row per epoch with `epoch`, `phase`, and metrics with their `val_` twins; numbers may be text.
        path: the image to write.
        kept: number of the epoch whose model was kept, to be marked.

    Raises:
        UserError: the file can't be written.
    """
    with replacing_from_local(path) as beside:
        draw_curves(history, kept).savefig(beside, dpi=120)


def draw_curves(history: Sequence[Mapping[str, str | float]], kept: int | None = None) -> Figure:
    """One panel per metric, training and validation together, with a line where the next phase begins.

    A ring marks the validation metric of the epoch `kept`.
    """
    metrics = _metrics(history)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 2.7 * max(1, len(metrics))))
        panels = figure.subplots(max(1, len(metrics)), squeeze=False)[:, 0]
        if not metrics:
            panels[0].set_title("No epoch has finished yet")
        for axes, metric in zip(panels, metrics, strict=False):
            _draw_metric(axes, history, metric)
            _mark_kept(axes, history, f"val_{metric}", kept)
            _mark_phases(axes, history)
            axes.legend(loc="best")
    return figure


def draw_estimates(
    targets: np.ndarray, estimates: np.ndarray, title: str, axis_names: tuple[str, str], limits: tuple[float, float]
) -> Figure:
    """Estimated numbers against true ones, a point per image; `limits` are those of the targets' axis."""
    low, high = limits
    margin = 0.02 * (high - low)
    with mpl.rc_context({**STYLE, "text.parse_math": False}):
        figure = Figure(figsize=(5.2, 4.6))
        axes = figure.subplots()
        axes.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + 2 * margin))
        axes.plot([low, high], [low, high], color=FAINT, linestyle="--", label="perfect")
        axes.plot(targets, estimates, ".", color=BLUE, alpha=0.5, markersize=4, label="an image")
        axes.set_title(title, loc="left")
        axes.set_xlabel(axis_names[0])
        axes.set_ylabel(axis_names[1])
        axes.legend(loc="upper left")
    return figure


def _metrics(history: Sequence[Mapping[str, str | float]]) -> list[str]:
    """The metrics to plot, loss first; the losses of single heads are left out in favor of the heads' metrics."""
    columns = dict.fromkeys(name for row in history for name in row)
    names = [name for name in columns if name not in _NOT_METRICS and not name.startswith("val_")]
    return sorted((name for name in names if not name.endswith("_loss")), key=lambda name: name != "loss")


def _draw_metric(axes: Axes, history: Sequence[Mapping[str, str | float]], metric: str) -> None:
    lines = ((metric, "training", BLUE, "o", "-"), (f"val_{metric}", "validation", ORANGE, "s", "--"))
    for column, label, color, marker, dashes in lines:
        points = [(float(row["epoch"]), float(row[column])) for row in history if row.get(column, "") != ""]
        if points:
            # Markers make a single epoch visible, but clutter a hundred.
            size = 4 if len(points) <= 40 else 0
            axes.plot(*zip(*points, strict=True), dashes, color=color, label=label, marker=marker, markersize=size)
    kind = metric.rsplit("_", 1)[-1]
    axes.set_title(_TITLES.get(metric, metric.replace("_", " ").capitalize()), loc="left", pad=16)
    axes.set_xlabel("epoch")
    axes.set_ylabel(_UNITS.get(kind, kind))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))


def _mark_kept(axes: Axes, history: Sequence[Mapping[str, str | float]], column: str, kept: int | None) -> None:
    for row in history:
        if row.get(column, "") != "" and int(float(row["epoch"])) == kept:
            style: dict[str, Any] = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "linestyle": "none"}
            axes.plot([kept], [float(row[column])], color=INK, label=f"kept: epoch {kept}", **style)


def _mark_phases(axes: Axes, history: Sequence[Mapping[str, str | float]]) -> None:
    middle = (float(history[0]["epoch"]) + float(history[-1]["epoch"])) / 2
    for before, after in zip(history, history[1:], strict=False):
        if before.get("phase") == after.get("phase"):
            continue
        border = (float(before["epoch"]) + float(after["epoch"])) / 2
        axes.axvline(border, color=INK, linewidth=1, linestyle=":")
        name = str(after.get("phase"))
        where = axes.get_xaxis_transform()
        side = "left" if border < middle else "right"
        text = f"{_STARTS.get(name, name)} \N{RIGHTWARDS ARROW}"
        axes.text(border, 1.01, text, transform=where, va="bottom", ha=side, fontsize=9)
