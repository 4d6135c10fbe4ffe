"""The report's plots. Each has a title and named axes with units; all colors are from the palette.

scikit-learn's displays are not used. `ConfusionMatrixDisplay` draws an image, which doesn't follow the reader's theme,
colors the diagonal like the rest, and writes a number into each cell of any matrix; `CalibrationDisplay` is for two
classes and has no intervals; all labels of `RocCurveDisplay` and `PrecisionRecallDisplay` would have to be replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter
from sklearn import metrics as sk

from evaluation.metrics import BINS, bins, wilson
from training.curves import BLUE, FAINT, GREEN, INK, ORANGE, PAPER, STYLE

_WIDTH = 5.2
_SQUARE = (_WIDTH, 4.6)
_LONGEST_NAME = 18

# With more classes, the counts in the cells and the names of single bars can't be read.
_MOST_COUNTED_CLASSES = 15
_MOST_NAMED_BARS = 40


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draws with the shared style, independently of the caller's rcParams."""

    @wraps(draw)
    def drawn(*args, **kwargs) -> Figure:
        with mpl.rc_context({**STYLE, "text.parse_math": False}):
            return draw(*args, **kwargs)

    return drawn


@styled
def confusion_matrix(confusion: np.ndarray, class_names: tuple[str, ...]) -> Figure:
    """Rows are labels, columns predictions; correct cells blue, wrong ones orange, stronger for more of the row."""
    classes = len(class_names)
    side = float(np.clip(0.42 * classes + 2.2, 4.4, 11))
    figure = Figure(figsize=(side, side))
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    filled = list(zip(*np.nonzero(confusion), strict=True))
    cells = [_cell(row, column, shares[row, column]) for row, column in filled]
    axes.add_collection(PatchCollection(cells, match_original=True))
    for row, column in filled if classes <= _MOST_COUNTED_CLASSES else []:
        color = PAPER if shares[row, column] > 0.5 else INK
        size = 15 if classes <= 4 else 9
        axes.text(column, row, f"{confusion[row, column]:,}", ha="center", va="center", color=color, fontsize=size)
    name_size = float(np.clip(400 / classes, 4.5, 10))
    axes.set(xlim=(-0.5, classes - 0.5), ylim=(classes - 0.5, -0.5), aspect="equal")
    shown = [_short(name) for name in class_names]
    axes.set_xticks(range(classes), shown, rotation=90 if classes > 4 else 0, fontsize=name_size)
    axes.set_yticks(range(classes), shown, fontsize=name_size)
    axes.grid(False)
    axes.set_title("Images by label and predicted class", loc="left", pad=12)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("label (images)" if classes <= _MOST_COUNTED_CLASSES else "label")
    return figure


@styled
def roc(labels: np.ndarray, scores: np.ndarray, class_names: tuple[str, ...]) -> Figure:
    """True positives against false positives over all thresholds; `scores` are probabilities of class 1."""
    negative, positive = map(_short, class_names)
    figure, axes = _square()
    false_positives, true_positives, _ = sk.roc_curve(labels, scores)
    axes.plot(false_positives, true_positives, color=BLUE, drawstyle="steps-post", label="this model")
    axes.plot([0, 1], [0, 1], color=FAINT, linestyle="--", label="chance")
    above = scores > 0.5
    axes.plot(above[labels == 0].mean(), above[labels == 1].mean(), "o", color=ORANGE, label="threshold 0.5")
    axes.set_title("ROC curve", loc="left")
    axes.set_xlabel(f'false positive rate: "{negative}" predicted as "{positive}"')
    axes.set_ylabel(f'true positive rate: recall of "{positive}"')
    axes.legend(loc="lower right")
    return figure


@styled
def precision_recall(labels: np.ndarray, scores: np.ndarray, class_names: tuple[str, ...]) -> Figure:
    """Precision against recall over all thresholds; `scores` are probabilities of class 1."""
    positive = _short(class_names[1])
    figure, axes = _square()
    precision, recall, _ = sk.precision_recall_curve(labels, scores, drop_intermediate=True)
    axes.plot(recall, precision, color=BLUE, drawstyle="steps-post", label="this model")
    axes.axhline(labels.mean(), color=FAINT, linestyle="--", label="chance")
    above = scores > 0.5
    if above.any():
        axes.plot(above[labels == 1].mean(), labels[above].mean(), "o", color=ORANGE, label="threshold 0.5")
    axes.set_title("Precision-recall curve", loc="left")
    axes.set_xlabel(f'recall of "{positive}"')
    axes.set_ylabel(f'precision of "{positive}"')
    axes.legend(loc="lower left")
    return figure


@styled
def calibration(labels: np.ndarray, before: np.ndarray, after: np.ndarray | None) -> Figure:
    """Accuracy against confidence, before and after temperature scaling (None: not fitted), and a histogram."""
    figure = Figure(figsize=(_WIDTH, 5.6))
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.plot([0, 1], [0, 1], color=FAINT, linestyle="--", label="perfectly calibrated")
    _draw_bins(top, labels, before, "as trained", "o", BLUE)
    if after is not None:
        _draw_bins(top, labels, after, "temperature-scaled", "s", ORANGE)
    bottom.hist(before.max(axis=1), bins=BINS, range=(0, 1), color=BLUE, alpha=0.8)
    # The confidence is at least 1 / classes.
    top.set(ylim=(0, 1.04), ylabel="accuracy", xlim=(1 / before.shape[1] - 0.02, 1.02))
    top.set_title("Accuracy by confidence", loc="left", pad=26)
    top.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2, columnspacing=1, fontsize=9)
    bottom.set(xlabel="confidence (probability of the predicted class)", ylabel="images")
    bottom.xaxis.set_major_formatter(PercentFormatter(1))
    top.yaxis.set_major_formatter(PercentFormatter(1))
    bottom.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
    return figure


@styled
def class_counts(counts: dict[str, np.ndarray], class_names: tuple[str, ...]) -> Figure:
    """Images of each class in each split, largest class on top; `counts` maps a split's name to counts by class."""
    order = np.argsort(-sum(counts.values()), kind="stable")
    named = len(class_names) <= _MOST_NAMED_BARS
    figure = Figure(figsize=(_WIDTH, 1.6 + (0.24 * len(class_names) if named else 3.6)))
    axes = figure.subplots()
    left = np.zeros(len(class_names))
    for (split, values), color in zip(counts.items(), (BLUE, ORANGE, GREEN), strict=False):
        axes.barh(range(len(order)), values[order], left=left, color=color, label=split, height=0.75 if named else 1)
        left = left + values[order]
    axes.invert_yaxis()
    axes.set_yticks(range(len(order)) if named else [], [_short(class_names[i]) for i in order] if named else [])
    axes.set_title("Images per class", loc="left", pad=26)
    axes.set_xlabel("images")
    axes.set_ylabel("class" if named else f"{len(order)} classes, largest first")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
    return figure


@styled
def sizes(widths: np.ndarray, heights: np.ndarray, image_size: int) -> Figure:
    """Width and height of the image files in px, with the square input of the network."""
    figure = Figure(figsize=_SQUARE)
    axes = figure.subplots()
    axes.plot(widths, heights, ".", color=BLUE, alpha=0.35, markersize=4, label="an image file")
    axes.plot([image_size], [image_size], "s", color=ORANGE, label=f"input of the network: {image_size} px")
    longest = 1.08 * max(widths.max(), heights.max(), image_size)
    axes.set(xlim=(0, longest), ylim=(0, longest), xlabel="width (px)", ylabel="height (px)")
    axes.set_title("Image sizes", loc="left", pad=42)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    return figure


@styled
def accuracies(names: list[str], accuracy: list[float], low: list[float], high: list[float]) -> Figure:
    """Runs side by side: accuracy with its 95 % interval."""
    figure = Figure(figsize=(_WIDTH, 1.4 + 0.35 * len(names)))
    axes = figure.subplots()
    rows = range(len(names))
    errors = [np.subtract(accuracy, low), np.subtract(high, accuracy)]
    axes.errorbar(accuracy, rows, xerr=errors, fmt="o", color=BLUE, capsize=4)
    axes.set_yticks(rows, [_short(name, 32) for name in names])
    axes.set(ylim=(len(names) - 0.5, -0.5), xlabel="test accuracy, with 95 % interval")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_title("Test accuracy per run", loc="left")
    return figure


def _square() -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SQUARE)
    axes = figure.subplots()
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.04))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    return figure, axes


def _cell(row: int, column: int, share: float) -> Rectangle:
    """A single confused image among hundreds must be visible, hence the root."""
    color = BLUE if row == column else ORANGE
    alpha = 0.12 + 0.88 * (share if row == column else share**0.5)
    return Rectangle((column - 0.5, row - 0.5), 1, 1, color=color, alpha=alpha, linewidth=0)


def _draw_bins(axes: Axes, labels: np.ndarray, probabilities: np.ndarray, name: str, form: str, color: str) -> None:
    """Draws bins with their 95 % intervals, or one of two images would look as certain as one of two hundred."""
    for bin in bins(labels, probabilities):
        low, high = wilson(round(bin.accuracy * bin.images), bin.images)
        axes.plot([bin.confidence] * 2, [low, high], color=color, linewidth=1, alpha=0.6)
        size = 3 + 7 * (bin.images / len(labels)) ** 0.5
        axes.plot(bin.confidence, bin.accuracy, form, color=color, markersize=size, label=name)
        name = ""


def _short(name: str, longest: int = _LONGEST_NAME) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"
