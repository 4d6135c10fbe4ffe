"""Writes the report of an assessment: a self-contained page, metrics.json, errors.csv, and the model card."""

from __future__ import annotations

import csv
import io
import os
from typing import Any

import keras
import numpy as np
from markupsafe import Markup

import errors
import models
import tables
from data.files import make_folder, write_text
from data.names import printable
from evaluation import examples, pages, plots
from evaluation.assessment import Assessment
from training import best_model
from training.curves import draw_curves
from training.heads import FurtherHead, further
from training.run import Run
from training.run_files import write_json

CARD = "README.md"
_MOST_CONFUSED = 12
_MOST_IN_ORDER = 10
# A wider table doesn't fit a terminal.
_MOST_PRINTED_CLASSES = 12


def write(assessment: Assessment, model: keras.Model, folder: str) -> str:
    """Writes index.html, metrics.json and errors.csv into `folder`; returns the page's path.

    Args:
        assessment: the findings.
        model: the run's Keras model, for Grad-CAM.
        folder: created if it is missing.

    Raises:
        UserError: the folder can't be written to.
    """
    make_folder(folder)
    write_json(os.path.join(folder, "metrics.json"), assessment.numbers)
    write_text(os.path.join(folder, "errors.csv"), _errors(assessment))
    path = os.path.join(folder, "index.html")
    write_text(path, _page(assessment, model))
    return path


def write_card(assessment: Assessment) -> str:
    """Writes the model card into the run folder, as its README.md; returns its path.

    Raises:
        UserError: the folder can't be written to.
    """
    path = assessment.subject.run.file(CARD)
    write_text(path, card(assessment))
    return path


def summary(assessment: Assessment) -> str:
    """The numbers as text for a terminal."""
    numbers = assessment.numbers
    low, high = tables.percent(numbers["accuracy_low"]), tables.percent(numbers["accuracy_high"])
    base = numbers["baseline"]
    noun = "image" if assessment.subject.is_own else "other image"
    paragraphs = [
        f"Accuracy on {errors.counted(numbers['images'], noun)} of {numbers['images_of']}: "
        f"{tables.percent(numbers['accuracy'])} (95 % interval: {low} to {high}).\n"
        f'Baseline, always "{base["class"]}": {tables.percent(base["accuracy"])}.',
        per_class(numbers),
    ]
    if len(numbers["classes"]) <= _MOST_PRINTED_CLASSES:
        paragraphs.append(confusion(numbers))
    for head in _measured(assessment):
        found = (f"{name} {tables.decimal(numbers[head.name][key])}" for key, (name, _) in head.measures.items())
        paragraphs.append(f"{head.title} ({head.scale}): {', '.join(found)}.")
    return "\n\n".join([*paragraphs, *(f"Warning: {warning}" for warning in numbers["warnings"])])


def per_class(numbers: dict[str, Any]) -> str:
    """Precision, recall, F1 and support of each class, with their mean, as an aligned table."""
    names = ("precision", "recall", "f1")
    rows = [
        [row["name"], *(tables.decimal(row[name]) for name in names), tables.count(row["support"])]
        for row in numbers["classes"]
    ]
    means = [tables.decimal(numbers["macro"][name]) for name in names]
    header = ["class", "precision", "recall", "F1", "images"]
    return tables.aligned([header, *rows, ["mean of classes", *means, tables.count(numbers["images"])]])


def confusion(numbers: dict[str, Any]) -> str:
    """The confusion matrix as an aligned table: a row per label, a column per prediction."""
    names = [row["name"] for row in numbers["classes"]]
    rows = [[name, *map(tables.count, cells)] for name, cells in zip(names, numbers["confusion"], strict=True)]
    return tables.aligned([["label \\ predicted", *names], *rows])


def card(assessment: Assessment) -> str:
    """The model card (Mitchell et al., 2019, arXiv:1810.03993) as Markdown."""
    run = assessment.subject.run
    return pages.render(
        "card.md.j2",
        assessment.numbers,
        **_context(assessment),
        spec=models.find(run.config.model),
        history=run.history(),
        per_class=per_class(assessment.numbers),
    )


def _page(assessment: Assessment, model: keras.Model) -> str:
    config = assessment.subject.run.config
    return pages.render(
        "report.html.j2",
        assessment.numbers,
        **_context(assessment),
        figures=_figures(assessment),
        classes=_classes(assessment.numbers),
        confused=most_confused(assessment.numbers),
        errors=examples.worst_errors(assessment),
        num_errors=len(assessment.predictions.errors),
        grad_cam=examples.grad_cam(assessment, model),
        copies=examples.copies(assessment),
        augmented=examples.augmented(assessment.train, config.augment, config.seed),
        formats=_formats(assessment),
    )


def _context(assessment: Assessment) -> dict[str, Any]:
    """The variables that both templates use."""
    run = assessment.subject.run
    return {
        "subject": assessment.subject,
        "config": run.config,
        "details": run.details(),
        "heads": _measured(assessment),
        "kept": best_model.kept(run.path),
        "counts": {split: int(values.sum()) for split, values in _split_counts(run).items()},
    }


def _figures(assessment: Assessment) -> dict[str, Markup]:
    """Inline SVGs by their names in the template; figures that don't apply are left out."""
    numbers, predictions, names = assessment.numbers, assessment.predictions, assessment.subject.class_names
    run = assessment.subject.run
    figures = {
        "Confusion matrix": plots.confusion_matrix(np.asarray(numbers["confusion"]), names),
        "Calibration curve": plots.calibration(predictions.labels, predictions.probabilities, assessment.rescaled),
        "Images per class": plots.class_counts(_split_counts(run), names),
        "Image sizes": _sizes(assessment),
    }
    if numbers["roc_auc"] is not None:
        scores = predictions.probabilities[:, 1]
        figures["ROC curve"] = plots.roc(predictions.labels, scores, names)
        figures["Precision-recall curve"] = plots.precision_recall(predictions.labels, scores, names)
    for head in _measured(assessment):
        figures[head.title] = head.figure(predictions.targets[head.name], predictions.answers)
    if history := run.history():
        figures["Learning curves"] = draw_curves(history, best_model.kept(run.path).epoch)
    return {name: pages.svg(figure, name) for name, figure in figures.items()}


def _sizes(assessment: Assessment) -> plots.Figure:
    headers = assessment.headers
    widths, heights = (np.asarray([getattr(h, side) for h in headers]) for side in ("width", "height"))
    return plots.sizes(widths, heights, assessment.subject.split.image_size)


def _measured(assessment: Assessment) -> list[FurtherHead]:
    """The further heads whose targets are known."""
    return [head for head in further(assessment.subject.heads) if assessment.numbers[head.name]]


def _split_counts(run: Run) -> dict[str, np.ndarray]:
    """Number of images of each class, in index order, by the split's name for readers."""
    index = {name: i for i, name in enumerate(run.class_names)}
    rows = run.splits()
    names = {"training": "train", "validation": "val", "test": "test", "unused": "unused"}
    counts = {
        title: np.bincount([index[row.label] for row in rows if row.split == split], minlength=len(index))
        for title, split in names.items()
    }
    return {title: values for title, values in counts.items() if values.any()}


def _classes(numbers: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """Index and numbers of each class; of more than ten classes the lowest F1 comes first."""
    rows = list(enumerate(numbers["classes"]))
    if len(rows) <= _MOST_IN_ORDER:
        return rows
    return sorted(rows, key=lambda item: item[1]["f1"] if item[1]["f1"] is not None else 2.0)


def most_confused(numbers: dict[str, Any]) -> list[dict[str, Any]]:
    """The most common pairs of a label and a wrong prediction, with their share of the label's images."""
    matrix = np.asarray(numbers["confusion"])
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSED]
    names = [row["name"] for row in numbers["classes"]]
    cells = [tuple(map(int, np.unravel_index(i, wrong.shape))) for i in order if wrong.flat[i]]
    return [
        {
            "pointer": f"/confusion/{row}/{column}",
            "label": names[row],
            "predicted": names[column],
            "share": float(wrong[row, column] / matrix[row].sum()),
        }
        for row, column in cells
    ]


def _formats(assessment: Assessment) -> dict[str, int]:
    """Number of image files of each format and with each oddity, the most common first."""
    found = [name for header in assessment.headers for name in (header.format, *header.notes) if name]
    return dict(sorted(((name, found.count(name)) for name in set(found)), key=lambda item: (-item[1], item[0])))


def _errors(assessment: Assessment) -> str:
    """A row for each misclassified image, the most confident first, with an empty column for the cause."""
    predictions, names = assessment.predictions, assessment.subject.class_names
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["address", "label", "prediction", "confidence", "cause"])
    for i in predictions.errors:
        label, predicted = names[predictions.labels[i]], names[predictions.predicted[i]]
        address = printable(assessment.subject.split.addresses[i])
        writer.writerow([address, label, predicted, f"{predictions.confidence[i]:.4f}", ""])
    return table.getvalue()
