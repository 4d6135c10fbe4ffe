"""From a run and some pictures to all numbers about them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import models
import wording
from data import load as sources
from data import scan
from data.header import Header, read_header
from data.names import printable
from data.source import Source
from errors import UserError
from evaluation import calibration, caveats, duplicates, metrics
from evaluation.predictions import Predictions, Predictor
from training.run import Part, Run

# One number is fitted on them, and each costs a forward pass.
_MOST_VALIDATION_PICTURES = 500
_MOST_COMPARED = 20_000
_MOST_HEADERS = 1_000

_CALIBRATED = ("log_loss", "brier", "ece")
_LISTED = 10


@dataclass(frozen=True)
class Subject:
    """What is judged, and by which pictures.

    Attributes:
        run: the run whose classes and training pictures are meant.
        part: the pictures to judge by.
        pictures: which ones these are, for the reader: `the test part of cat_dog`.
        network: what answered: `model.keras`, or the folder of a SavedModel.
        is_own: whether `part` is the run's own test part.
        notes: what was left out and why, a sentence each.
    """

    run: Run
    part: Part
    pictures: str
    network: str
    is_own: bool = True
    notes: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names that can be printed, whatever bytes a folder's name holds."""
        return tuple(printable(name) for name in self.run.class_names)


@dataclass(frozen=True)
class Assessment:
    """A subject with all that was found out about it.

    Attributes:
        subject: what was judged.
        predictions: the answers to its pictures.
        numbers: the content of metrics.json.
        rescaled: probabilities after temperature scaling, or None when there is no temperature.
        copies: (index of a test picture, training picture's index in `train`, correlation).
        train: the training pictures that were compared.
        headers: format and size of the picture files, at most 1,000 of them, evenly spread.
    """

    subject: Subject
    predictions: Predictions
    numbers: dict[str, Any]
    rescaled: np.ndarray | None
    copies: list[tuple[int, int, float]]
    train: Part
    headers: list[Header]


def own_test_part(run: Run, network: str) -> Subject:
    """The pictures that the run has set apart for its test."""
    data = run.config.data.rstrip("/").rsplit("/", 1)[-1]
    return Subject(run, run.part("test"), f"the test part of {printable(data)}", network)


def other_pictures(run: Run, data: str, data_dir: str | None, network: str) -> Subject:
    """The pictures that `data` names, with the run's class indices; classes are matched by name.

    Raises:
        UserError: there is no such source, or none of its classes is known to the run.
    """
    source = sources.load(data, data_dir)
    known = {name: i for i, name in enumerate(run.class_names)}
    labels = np.asarray([known.get(name, -1) for name in source.class_names], np.int64)[source.labels]
    if (labels < 0).all():
        raise UserError(
            f"--data={data} must have a class of the run: {', '.join(run.class_names[:_LISTED])}. "
            f"Received: {', '.join(source.class_names[:_LISTED])}. Name its folders or labels like the run's classes."
        )
    notes = _unknown(source, known, labels)
    matched = replace(source, labels=labels, class_names=run.class_names).take(np.flatnonzero(labels >= 0))
    readable, bad = _readable(matched)
    part = Part(readable, run.config.image_size or 0, models.find(run.config.model).channels)
    return Subject(run, part, printable(data), network, False, (*notes, *bad))


def assess(subject: Subject, predictor: Predictor, batch_size: int) -> Assessment:
    """Predicts the subject's pictures once and measures everything about the answers."""
    run = subject.run
    predictions = predictor(subject.part, batch_size, "predicting the pictures")
    val = run.part("val")
    validation = predictor(_spread(val, _MOST_VALIDATION_PICTURES), batch_size, "predicting validation pictures")
    temperature = calibration.fit_temperature(validation.labels, validation.probabilities)
    rescaled = None if temperature is None else calibration.rescale(predictions.probabilities, temperature)
    all_train = run.part("train")
    train = _spread(all_train, _MOST_COMPARED)
    headers = [read_header(subject.part.encoded(i)) for i in evenly(np.arange(len(subject.part)), _MOST_HEADERS)]
    typical_px = float(np.median([max(header.width, header.height) for header in headers]))
    copies = duplicates.compare(subject.part, train, typical_px)
    numbers = {
        "pictures_of": subject.pictures,
        "network": subject.network,
        **_numbers(subject, predictions, all_train.labels),
        "temperature": temperature,
        "calibrated": _calibrated(subject, predictions, rescaled),
        "copies_in_training": len(copies),
    }
    warnings = [
        *subject.notes,
        *caveats.of_metrics(numbers, numbers["baseline"]),
        *caveats.of_duplicates(len(copies), len(subject.part), len(train), len(all_train)),
    ]
    return Assessment(subject, predictions, {**numbers, "warnings": warnings}, rescaled, copies, train, headers)


def _numbers(subject: Subject, predictions: Predictions, train_labels: np.ndarray) -> dict[str, Any]:
    names = subject.class_names
    train_counts = np.bincount(train_labels, minlength=len(names))
    numbers = metrics.classification(predictions.labels, predictions.probabilities, names)
    numbers["baseline"] = metrics.baseline(predictions.labels, train_counts, names)
    numbers["brightness"] = None
    if predictions.brightness is not None and predictions.brightness_targets is not None:
        numbers["brightness"] = metrics.brightness(predictions.brightness_targets, predictions.brightness)
    return numbers


def _calibrated(subject: Subject, predictions: Predictions, rescaled: np.ndarray | None) -> dict[str, Any] | None:
    if rescaled is None:
        return None
    numbers = metrics.classification(predictions.labels, rescaled, subject.class_names)
    return {name: numbers[name] for name in _CALIBRATED}


def _unknown(source: Source, known: dict[str, int], labels: np.ndarray) -> list[str]:
    unknown = [printable(name) for name in source.class_names if name not in known]
    if not unknown:
        return []
    more = f" and {len(unknown) - _LISTED} more" if len(unknown) > _LISTED else ""
    return [
        f"Left out {(labels < 0).sum():,} of {wording.counted(len(labels), 'image')}: the run doesn't know their "
        f"classes, {', '.join(unknown[:_LISTED])}{more}."
    ]


def _readable(source: Source) -> tuple[Source, list[str]]:
    inspections = scan.scan(source)
    good = [i for i, inspection in enumerate(inspections) if not inspection.problem]
    if len(good) == len(source):
        return source, []
    listed = scan.list_bad(source, inspections)
    if not good:
        raise UserError(f"{source.name} must hold a whole JPEG, PNG, GIF or BMP. Received none:\n{listed}")
    return source.take(np.asarray(good)), [
        f"Left out {wording.counted(len(source) - len(good), 'file')}, of which no image can be read:\n{listed}"
    ]


def evenly(values: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the values, over the whole length: of a list sorted by class, all classes in their shares."""
    if len(values) <= most:
        return values
    return values[np.linspace(0, len(values) - 1, most).round().astype(np.int64)]


def _spread(part: Part, most: int) -> Part:
    return replace(part, source=part.source.take(evenly(np.arange(len(part)), most)))
