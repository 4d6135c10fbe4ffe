"""From a run and some images to all numbers about them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

import errors
from data import load, validation
from data.dataset import Dataset
from data.image_header import Header, read_header
from data.names import printable, shortened
from errors import UserError
from evaluation import calibration, caveats, duplicates, metrics
from evaluation.predictions import Predictions, Predictor
from training.heads import HEADS, FurtherHead, Head, further
from training.run import Run, Split

# One number is fitted on them, and each costs a forward pass.
_MOST_VALIDATION_IMAGES = 500
_MOST_COMPARED = 20_000
_MOST_HEADERS = 1_000

_CALIBRATED = ("log_loss", "brier", "ece")
_LISTED = 10


@dataclass(frozen=True)
class Subject:
    """What is judged, and by which images.

    Attributes:
        run: the run whose classes and training images are meant.
        split: the images to judge by.
        images: which ones these are, for the reader: `the test split of cat_dog`.
        network: what answered: `model.keras`, or the folder of a SavedModel.
        is_own: whether `split` is the run's own test split.
        notes: what was left out and why, a sentence each.
        val: the validation images that are at hand, for calibration; None where there are none.
        train: the training images that are at hand, to search for copies; None where there are none.
    """

    run: Run
    split: Split
    images: str
    network: str
    is_own: bool = True
    notes: tuple[str, ...] = ()
    val: Split | None = None
    train: Split | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names that can be printed, whatever bytes a folder's name holds."""
        return tuple(printable(name) for name in self.run.class_names)

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads of the network."""
        return self.run.heads


@dataclass(frozen=True)
class Assessment:
    """A subject with all that was found out about it.

    Attributes:
        subject: what was judged.
        predictions: the answers to its images.
        numbers: the content of metrics.json.
        rescaled: probabilities after temperature scaling, or None when there is no temperature.
        copies: (index of a test image, training image's index in `train`, correlation).
        train: the training images that were compared; None where none are at hand.
        headers: format and size of the image files, at most 1,000 of them, evenly spread.
    """

    subject: Subject
    predictions: Predictions
    numbers: dict[str, Any]
    rescaled: np.ndarray | None
    copies: list[tuple[int, int, float]]
    train: Split | None
    headers: list[Header]


def own_test_split(run: Run, network: str, moved_to: Dataset | None = None) -> Subject:
    """The images that the run has set apart for its test.

    Args:
        run: the run.
        network: what answers.
        moved_to: where the run's images are now; None for where they were.

    Raises:
        UserError: an image of the test split is missing.
    """
    if moved_to is None:
        name = f"the test split of {printable(run.config.data.rstrip('/').rsplit('/', 1)[-1])}"
        return _supported(Subject(run, run.split("test"), name, network), run.dataset)
    split, _ = run.found("test", moved_to)
    name = f"the run's own test split, found in {printable(moved_to.name)}"
    return _supported(Subject(run, split, name, network), moved_to)


def subject_in(run: Run, data: str, data_dir: str | None, network: str) -> Subject:
    """What `data` gives to judge by: the run's own test split, where the run's images have moved there, or others.

    Raises:
        UserError: there is no such dataset, it holds only some of the test split, or none of the run's classes.
    """
    dataset = load(data, data_dir)
    found, all_found = _same_images(run, dataset)
    if found and not all_found:
        raise UserError(
            f"--data={printable(data)} must hold the whole test split of {run.path}, if the run's images have moved "
            f"there, or other images. Received {found:,} of its images, unchanged, and not the others. Put those back, "
            "or take the run's images away."
        )
    return own_test_split(run, network, dataset) if found else _other_images(run, dataset, network)


def _same_images(run: Run, dataset: Dataset) -> tuple[int, bool]:
    """How many images of the run's test split `dataset` holds, and whether these are all.

    The address, the class and the content must be the same; for a run of an older version, which recorded no content,
    nothing is.
    """
    wanted = {row.address: row.sha256 for row in run.splits() if row.split == "test"}
    split, missing = run.found("test", dataset)

    def is_same(i: int) -> bool:
        expected = wanted[split.addresses[i]]
        try:
            return expected != "" and hashlib.sha256(split.encoded(i)).hexdigest() == expected
        except (OSError, tf.errors.OpError):
            return False

    same = sum(validation.in_parallel(is_same, range(len(split)), "looking for the run's test split"))
    return same, same == len(split) and not missing


def _other_images(run: Run, dataset: Dataset, network: str) -> Subject:
    """All images of `dataset` whose classes the run knows, by their names."""
    known = {name: i for i, name in enumerate(run.class_names)}
    labels = np.asarray([known.get(name, -1) for name in dataset.class_names], np.int64)[dataset.labels]
    if (labels < 0).all():
        raise UserError(
            f"--data={printable(dataset.name)} must have a class of the run: {shortened(run.class_names)}. "
            f"Received: {shortened(dataset.class_names)}. Name its folders or labels like the run's classes."
        )
    notes = _unknown(dataset, known, labels)
    matched = replace(dataset, labels=labels, class_names=run.class_names).take(np.flatnonzero(labels >= 0))
    readable, digests, bad = _readable(matched)
    subject = Subject(run, run.as_split(readable), printable(dataset.name), network, False, (*notes, *bad))
    try:
        own = run.dataset
    except UserError:
        own = None
    return _supported(subject, own, digests)


def _supported(subject: Subject, own: Dataset | None, digests: Sequence[str] = ()) -> Subject:
    """`subject` with those of the run's validation and training images that `own` still holds.

    Args:
        subject: without them.
        own: the run's images, or what is left of them; None where they can't be found.
        digests: SHA-256 of the images of `subject`, to count those that were trained on where no copies can be found.
    """
    val, val_missing = _at_hand(subject.run, "val", own)
    train, train_missing = _at_hand(subject.run, "train", own)
    notes = [
        *caveats.of_missing("Calibration", "validation", len(val or ()), val_missing),
        *caveats.of_missing("The search for copies", "training", len(train or ()), train_missing),
    ]
    trained = {row.sha256 for row in subject.run.splits() if row.split == "train" and row.sha256}
    if not train and (known := sum(digest in trained for digest in digests)):
        notes.append(
            f"{known:,} of these {len(digests):,} images were trained on: they have the same SHA-256 as one in the "
            "training split. Take them away."
        )
    return replace(subject, notes=(*subject.notes, *notes), val=val, train=train)


def _at_hand(run: Run, name: str, own: Dataset | None) -> tuple[Split | None, int]:
    """The images of a split that `own` holds, None for none, and how many it lacks."""
    if own is None:
        return None, sum(row.split == name for row in run.splits())
    split, missing = run.found(name, own)
    return split or None, len(missing)


def assess(subject: Subject, predictor: Predictor, batch_size: int) -> Assessment:
    """Predicts the subject's images once and measures everything about the answers."""
    predictions = predictor(subject.split, batch_size, "predicting the images")
    temperature = _temperature(subject.val, predictor, batch_size)
    rescaled = None if temperature is None else calibration.rescale(predictions.probabilities, temperature)
    train = subject.train and _spread(subject.train, _MOST_COMPARED)
    headers = [read_header(subject.split.encoded(i)) for i in evenly(np.arange(len(subject.split)), _MOST_HEADERS)]
    typical_px = float(np.median([max(header.width, header.height) for header in headers]))
    copies = duplicates.compare(subject.split, train, typical_px) if train else []
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
        *caveats.of_metrics(numbers, numbers["baseline"]),
        *caveats.of_duplicates(len(copies), len(subject.split), len(train or ()), len(subject.train or ())),
    ]
    return Assessment(subject, predictions, {**numbers, "warnings": warnings}, rescaled, copies, train, headers)


def _temperature(val: Split | None, predictor: Predictor, batch_size: int) -> float | None:
    if val is None:
        return None
    validation = predictor(_spread(val, _MOST_VALIDATION_IMAGES), batch_size, "predicting validation images")
    return calibration.fit_temperature(validation.labels, validation.probabilities)


def _numbers(subject: Subject, predictions: Predictions) -> dict[str, Any]:
    names = subject.class_names
    trained = Counter(row.label for row in subject.run.splits() if row.split == "train")
    train_counts = np.asarray([trained[name] for name in subject.run.class_names])
    numbers = metrics.classification(predictions.labels, predictions.probabilities, names)
    numbers["baseline"] = metrics.baseline(predictions.labels, train_counts, names)
    # A file has a section for each kind of head that there is, whatever the network.
    numbers |= {name: None for name, kind in HEADS.items() if issubclass(kind, FurtherHead)}
    return numbers | {
        head.name: head.measure(predictions.targets[head.name], predictions.answers)
        for head in further(subject.heads)
        if head.name in predictions.targets and head.name in predictions.answers
    }


def _calibrated(subject: Subject, predictions: Predictions, rescaled: np.ndarray | None) -> dict[str, Any] | None:
    if rescaled is None:
        return None
    numbers = metrics.classification(predictions.labels, rescaled, subject.class_names)
    return {name: numbers[name] for name in _CALIBRATED}


def _unknown(dataset: Dataset, known: dict[str, int], labels: np.ndarray) -> list[str]:
    unknown = [printable(name) for name in dataset.class_names if name not in known]
    if not unknown:
        return []
    more = f" and {len(unknown) - _LISTED} more" if len(unknown) > _LISTED else ""
    return [
        f"Left out {(labels < 0).sum():,} of {errors.counted(len(labels), 'image')}: the run doesn't know their "
        f"classes, {', '.join(unknown[:_LISTED])}{more}."
    ]


def _readable(dataset: Dataset) -> tuple[Dataset, list[str], list[str]]:
    """What can be read, the SHA-256 of each image in it, and a note on the others."""
    inspections = validation.scan(dataset)
    good = [i for i, inspection in enumerate(inspections) if not inspection.problem]
    listed = validation.list_bad(dataset, inspections)
    if not good:
        raise UserError(f"{dataset.name} must hold a whole JPEG, PNG, GIF or BMP. Received none:\n{listed}")
    bad = len(dataset) - len(good)
    notes = [f"Left out {errors.counted(bad, 'file')}, of which no image can be read:\n{listed}"] if bad else []
    return dataset.take(np.asarray(good)), [inspections[i].digest for i in good], notes


def evenly(values: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the values, over the whole length: of a list sorted by class, all classes in their shares."""
    if len(values) <= most:
        return values
    return values[np.linspace(0, len(values) - 1, most).round().astype(np.int64)]


def _spread(split: Split, most: int) -> Split:
    return replace(split, dataset=split.dataset.take(evenly(np.arange(len(split)), most)))
