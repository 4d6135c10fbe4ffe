"""The report of one run: a page that needs nothing else, its numbers, the list of errors, and the model card."""

from __future__ import annotations

import csv
import io
import os
from typing import Any

import keras
import numpy as np

from data.files import make_folder, write_text
from data.names import printable
from evaluation import exhibits, pages, plots, svg
from evaluation.assess import Assessment
from training import best_model
from training.curves import draw_curves
from training.heads import FurtherHead, further
from training.run import Run
from training.run_files import write_json

_MOST_CONFUSED = 12
_MOST_IN_ORDER = 10
_ERROR_COLUMNS = ("address", "label", "prediction", "confidence", "cause")


def write(assessment: Assessment, model: keras.Model, folder: str) -> str:
    """Writes index.html, metrics.json and errors.csv into `folder` and gives the page's path.

    Args:
        assessment: what was found out.
        model: the run's Keras model, for Grad-CAM.
        folder: created where it is missing.

    Raises:
        UserError: the place can't be written to.
    """
    make_folder(folder)
    write_json(os.path.join(folder, "metrics.json"), assessment.numbers)
    write_text(os.path.join(folder, "errors.csv"), _errors(assessment))
    page = os.path.join(folder, "index.html")
    write_text(page, _page(assessment, model))
    return page


def most_confused(numbers: dict[str, Any]) -> list[dict[str, Any]]:
    """The commonest pairs of a label and another prediction, with the share of the label's images."""
    confusion = np.asarray(numbers["confusion"])
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSED]
    names = [row["name"] for row in numbers["classes"]]
    places = [tuple(map(int, np.unravel_index(i, wrong.shape))) for i in order if wrong.flat[i]]
    return [
        {
            "pointer": f"/confusion/{row}/{column}",
            "label": names[row],
            "predicted": names[column],
            "images": int(wrong[row, column]),
            "share": float(wrong[row, column] / confusion[row].sum()),
        }
        for row, column in places
    ]


def measured(assessment: Assessment) -> list[FurtherHead]:
    """The heads beside the class whose targets are known."""
    return [head for head in further(assessment.subject.heads) if assessment.numbers[head.name]]


def split_counts(run: Run) -> dict[str, np.ndarray]:
    """How many images of each class are in each split, by the split's name for readers."""
    index = {name: i for i, name in enumerate(run.class_names)}
    rows = run.splits()
    names = {"training": "train", "validation": "val", "test": "test", "unused": "unused"}
    counts = {
        title: np.bincount([index[row.label] for row in rows if row.split == split], minlength=len(index))
        for title, split in names.items()
    }
    return {title: values for title, values in counts.items() if values.any()}


def _page(assessment: Assessment, model: keras.Model) -> str:
    subject, run = assessment.subject, assessment.subject.run
    return pages.render(
        "report.html.j2",
        assessment.numbers,
        subject=subject,
        config=run.config,
        details=run.details(),
        figures=_figures(assessment),
        heads=measured(assessment),
        classes=_classes(assessment.numbers),
        confused=most_confused(assessment.numbers),
        errors=exhibits.worst_errors(assessment),
        num_errors=int((~assessment.predictions.correct).sum()),
        evidence=exhibits.evidence(assessment, model),
        copies=exhibits.copies(assessment),
        augmented=exhibits.augmented(assessment.train, run.config.augment, run.config.seed),
        counts={split: int(values.sum()) for split, values in split_counts(run).items()},
        formats=_formats(assessment),
        kept=best_model.kept(run.path),
    )


def _classes(numbers: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """Index and numbers of each class; of many classes the worst come first, for nobody reads to the end."""
    rows = list(enumerate(numbers["classes"]))
    if len(rows) <= _MOST_IN_ORDER:
        return rows
    return sorted(rows, key=lambda item: item[1]["f1"] if item[1]["f1"] is not None else 2.0)


def _figures(assessment: Assessment) -> dict[str, svg.Markup]:
    """Inline SVG by the name that the template uses; what doesn't apply is left out."""
    numbers, predictions, names = assessment.numbers, assessment.predictions, assessment.subject.class_names
    run = assessment.subject.run
    figures = {
        "Confusion matrix": plots.confusion_matrix(np.asarray(numbers["confusion"]), names),
        "Reliability diagram": plots.reliability(predictions.labels, predictions.probabilities, assessment.rescaled),
        "Images of each class": plots.class_counts(split_counts(run), names),
        "Sizes of the image files": _sizes(assessment),
    }
    if numbers["roc_auc"] is not None:
        scores = predictions.probabilities[:, 1]
        figures["ROC curve"] = plots.roc(predictions.labels, scores, names[1])
        figures["Precision-recall curve"] = plots.precision_recall(predictions.labels, scores, names[1])
    for head in measured(assessment):
        figures[head.title] = head.figure(predictions.targets[head.name], predictions.answers)
    if history := run.history():
        figures["Learning curves"] = draw_curves(history, best_model.kept(run.path).epoch)
    return {name: svg.from_figure(figure, name) for name, figure in figures.items()}


def _sizes(assessment: Assessment) -> plots.Figure:
    headers = assessment.headers
    widths, heights = (np.asarray([getattr(h, side) for h in headers]) for side in ("width", "height"))
    return plots.sizes(widths, heights, assessment.subject.split.image_size)


def _formats(assessment: Assessment) -> dict[str, int]:
    """How many image files there are of each format and oddity, commonest first."""
    found = [name for header in assessment.headers for name in (header.format, *header.notes) if name]
    return dict(sorted(((name, found.count(name)) for name in set(found)), key=lambda item: (-item[1], item[0])))


def _errors(assessment: Assessment) -> str:
    """A row for each wrong image, the most confident first, with an empty column for the cause."""
    predictions, names = assessment.predictions, assessment.subject.class_names
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_ERROR_COLUMNS)
    for i in exhibits.wrong_first_by_confidence(assessment):
        label, predicted = names[predictions.labels[i]], names[predictions.predicted[i]]
        address = printable(assessment.subject.split.addresses[i])
        writer.writerow([address, label, predicted, f"{predictions.confidence[i]:.4f}", ""])
    return table.getvalue()
