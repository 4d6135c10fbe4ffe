"""All numbers about a run on some images: predictions, metrics, calibration, copies, warnings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

import errors
from data.dataset import Dataset
from data.image_header import Header, read_header
from evaluation import duplicates, metrics
from evaluation.predictions import Predictions, Predictor, from_model
from evaluation.subject import Subject
from training.heads import HEADS, FurtherHead, Head, further
from training.run import Split

# Only the temperature is fitted on them, and each costs a forward pass.
_MOST_VALIDATION_IMAGES = 500
_MOST_COMPARED = 20_000
_MOST_HEADERS = 1_000

_CALIBRATED = ("log_loss", "brier", "ece")

# Largest half-width of the 95 % interval of the accuracy without a warning, as a fraction.
LARGEST_DOUBT = 0.025
_FEWEST_OF_A_CLASS = 20
_LISTED = 5


@dataclass(frozen=True)
class Assessment:
    """The findings about a subject.

    Attributes:
        subject: what was evaluated.
        predictions: the answers to its images.
        numbers: the content of metrics.json.
        rescaled: probabilities after temperature scaling; None without a temperature.
        copies: (index of a test image, training image's index in `train`, correlation).
        train: the training images that were compared; None where none were found.
        headers: format and size of the image files, at most 1,000 of them, evenly spread.
    """

    subject: Subject
    predictions: Predictions
    numbers: dict[str, Any]
    rescaled: np.ndarray | None
    copies: list[tuple[int, int, float]]
    train: Split | None
    headers: list[Header]


def assess(subject: Subject, predictor: Predictor, batch_size: int) -> Assessment:
    """Predicts the subject's images once and computes everything from these predictions."""
    predictions = predictor(subject.split, batch_size, "predicting the images")
    temperature = _temperature(subject.val, predictor, batch_size)
    rescaled = None if temperature is None else metrics.rescale(predictions.probabilities, temperature)
    headers = [read_header(subject.split.encoded(i)) for i in evenly(np.arange(len(subject.split)), _MOST_HEADERS)]
    train = subject.train and _spread(subject.train, _MOST_COMPARED)
    copies = duplicates.compare(subject.split, train, _typical_px(headers)) if train else []
    numbers = {
        "images_of": subject.images,
        "network": subject.network,
        **_numbers(subject, predictions),
        "temperature": temperature,
        "calibrated": _calibrated(subject, predictions, rescaled),
        "copies_in_training": len(copies) if train else None,
    }
    warnings = [
        *subject.notes,
        *warnings_about(numbers, numbers["baseline"]),
        *copies_warning(len(copies), len(subject.split), len(train or ()), len(subject.train or ())),
    ]
    return Assessment(subject, predictions, {**numbers, "warnings": warnings}, rescaled, copies, train, headers)


def evaluate(model: keras.Model, dataset: Dataset, heads: Sequence[Head], batch_size: int = 32) -> dict[str, Any]:
    """The metrics of `model` on all images of `dataset`, each counted once, as in metrics.json.

    Args:
        model: made by `models.build`.
        dataset: images of the classes that the model was trained on.
        heads: of the model, see `training.heads_of`.
        batch_size: images per step.
    """
    _, size, _, channels = model.get_layer("backbone").input_shape
    predictions = from_model(model, heads)(Split(dataset, size, channels), batch_size, "predicting the images")
    numbers = metrics.classification(predictions.labels, predictions.probabilities, heads[0].class_names)
    return numbers | _measured(heads, predictions)


def _temperature(val: Split | None, predictor: Predictor, batch_size: int) -> float | None:
    if val is None:
        return None
    validation = predictor(_spread(val, _MOST_VALIDATION_IMAGES), batch_size, "predicting validation images")
    return metrics.fit_temperature(validation.labels, validation.probabilities)


def _typical_px(headers: list[Header]) -> float:
    return float(np.median([max(header.width, header.height) for header in headers]))


def _numbers(subject: Subject, predictions: Predictions) -> dict[str, Any]:
    names = subject.class_names
    trained = Counter(row.label for row in subject.run.splits() if row.split == "train")
    train_counts = np.asarray([trained[name] for name in subject.run.class_names])
    numbers = metrics.classification(predictions.labels, predictions.probabilities, names)
    numbers["baseline"] = metrics.baseline(predictions.labels, train_counts, names)
    # metrics.json has a section for each registered head; None for those that the network lacks.
    numbers |= {name: None for name, kind in HEADS.items() if issubclass(kind, FurtherHead)}
    return numbers | _measured(subject.heads, predictions)


def _measured(heads: Sequence[Head], predictions: Predictions) -> dict[str, Any]:
    """The numbers of the further heads whose targets are known."""
    return {
        head.name: head.measure(predictions.targets[head.name], predictions.answers)
        for head in further(heads)
        if head.name in predictions.targets and head.name in predictions.answers
    }


def _calibrated(subject: Subject, predictions: Predictions, rescaled: np.ndarray | None) -> dict[str, Any] | None:
    if rescaled is None:
        return None
    numbers = metrics.classification(predictions.labels, rescaled, subject.class_names)
    return {name: numbers[name] for name in _CALIBRATED}


def warnings_about(model: dict[str, Any], baseline: dict[str, Any]) -> list[str]:
    """Warnings that the test split is too small for a claim; the arguments are from `metrics.classification`."""
    return [
        *_size_warning(model),
        *_baseline_warning(model, baseline),
        *_classes_warning([(row["name"], row["support"]) for row in model["classes"]]),
    ]


def copies_warning(pairs: int, tested: int, compared: int, trained: int) -> list[str]:
    """A warning when some of the `tested` images are in the training split too.

    Args:
        pairs: number of these images.
        tested: number of test images.
        compared: number of training images that they were compared with.
        trained: number of all training images.
    """
    if not pairs:
        return []
    checked = "" if compared == trained else f" (compared with {compared:,} of the {trained:,} training images)"
    return [
        f"{pairs:,} of {tested:,} test images {'is' if pairs == 1 else 'are'} identical or nearly identical to a "
        f"training image{checked}. The model may have memorized them: see the pairs below, and remove the copies."
    ]


def images_for(accuracy: float, doubt: float) -> int:
    """How many images narrow the 95 % interval of this accuracy to ± `doubt` (normal approximation)."""
    # An accuracy of 1 has a variance of 0, which would ask for no images at all.
    spread = max(accuracy * (1 - accuracy), 0.01)
    return round(1.96**2 * spread / doubt**2)


def _size_warning(model: dict[str, Any]) -> list[str]:
    low, high = model["accuracy_low"], model["accuracy_high"]
    if (high - low) / 2 <= LARGEST_DOUBT:
        return []
    wanted = max(images_for(model["accuracy"], LARGEST_DOUBT), model["images"] + 1)
    images = errors.counted(model["images"], "image")
    return [
        f"The test split is small: from {images} the accuracy is only known to lie between {100 * low:.1f} and "
        f"{100 * high:.1f} %. About {wanted:,} images would give ±{100 * LARGEST_DOUBT:g} points."
    ]


def _baseline_warning(model: dict[str, Any], baseline: dict[str, Any]) -> list[str]:
    if model["accuracy_low"] > baseline["accuracy"]:
        return []
    return [
        f"The model is not shown to be better than always answering “{baseline['class']}”, which is correct "
        f"for {100 * baseline['accuracy']:.1f} % of these images."
    ]


def _classes_warning(supports: list[tuple[str, int]]) -> list[str]:
    few = [(name, support) for name, support in supports if support < _FEWEST_OF_A_CLASS]
    if not few:
        return []
    named = ", ".join(f"{name} ({support})" for name, support in few[:_LISTED])
    more = f" and {len(few) - _LISTED} more classes" if len(few) > _LISTED else ""
    return [
        f"Fewer than {_FEWEST_OF_A_CLASS} test images of {named}{more}: the numbers of "
        f"{'this class' if len(few) == 1 else 'these classes'} alone mean little."
    ]


def evenly(values: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the values, evenly spaced; a list sorted by class keeps the shares of its classes."""
    if len(values) <= most:
        return values
    return values[np.linspace(0, len(values) - 1, most).round().astype(np.int64)]


def _spread(split: Split, most: int) -> Split:
    return replace(split, dataset=split.dataset.take(evenly(np.arange(len(split)), most)))
