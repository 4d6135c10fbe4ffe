"""The images that a run is evaluated on: its own test split, wherever it is now, or other images of its classes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

import errors
from data import load, validation
from data.dataset import Dataset
from data.names import printable, shortened
from errors import UserError
from training.heads import Head
from training.run import Run, Split


@dataclass(frozen=True)
class Subject:
    """What is evaluated, and on which images.

    Attributes:
        run: the run, with its classes and training images.
        split: the images to evaluate on.
        images: a name of these images for the reader, such as `the test split of cat_dog`.
        network: what predicts: `model.keras`, or the folder of a SavedModel.
        is_own: whether `split` is the run's own test split.
        notes: sentences that say what was left out and why.
        val: the validation images that were found, for calibration; None for none.
        train: the training images that were found, to search for copies; None for none.
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
        """The class names in printable form, whatever bytes a folder's name holds."""
        return tuple(printable(name) for name in self.run.class_names)

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads of the network."""
        return self.run.heads


def own_test_split(run: Run, network: str, moved_to: Dataset | None = None) -> Subject:
    """The test split of the run.

    Args:
        run: the run.
        network: what predicts.
        moved_to: where the run's images are now; None if they have not moved.

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
    """The images of `data`: the run's own test split, if the run's images have moved there, else all of them.

    Raises:
        UserError: there is no such data set, it holds only some of the test split, or none of the run's classes.
    """
    dataset = load(data, data_dir)
    found, all_found = _same_images(run, dataset)
    if found and not all_found:
        raise UserError(
            f"`data` must hold the whole test split of {run.path}, if the run's images have moved there, or other "
            f"images. Received: {found:,} of its images, unchanged, but not the others, in {printable(data)}. Put the "
            "others back, or remove the run's images."
        )
    return own_test_split(run, network, dataset) if found else _other_images(run, dataset, network)


def _same_images(run: Run, dataset: Dataset) -> tuple[int, bool]:
    """How many images of the run's test split `dataset` holds, and whether it holds all.

    Address, class and content must be the same; a run of an older version recorded no content, so none counts.
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
            f"`data` must have a class of the run: {shortened(run.class_names)}. "
            f"Received: {printable(dataset.name)} with {shortened(dataset.class_names)}. Name its folders or labels "
            "like the run's classes."
        )
    notes = _on_unknown_classes([name for name in dataset.class_names if name not in known], labels)
    matched = replace(dataset, labels=labels, class_names=run.class_names).take(np.flatnonzero(labels >= 0))
    readable, bad = _readable(matched)
    subject = Subject(run, run.as_split(readable), printable(dataset.name), network, False, (*notes, *bad))
    try:
        own = run.dataset
    except UserError:
        own = None
    return _supported(subject, own)


def _on_unknown_classes(names: Sequence[str], labels: np.ndarray) -> list[str]:
    if not names:
        return []
    left_out = f"{(labels < 0).sum():,} of {errors.counted(len(labels), 'image')}"
    return [f"Left out {left_out}: the run doesn't know their classes, {shortened(names)}."]


def _readable(dataset: Dataset) -> tuple[Dataset, list[str]]:
    """The readable images, and a note on the others."""
    inspections = validation.scan(dataset)
    found = validation.readable(dataset, inspections)
    listed = validation.list_bad(dataset, inspections)
    if not len(found):
        raise UserError(f"{dataset.name} must hold a whole JPEG, PNG, GIF or BMP. Received none:\n{listed}")
    bad = len(dataset) - len(found)
    notes = [f"Left out {errors.counted(bad, 'file')} without a readable image:\n{listed}"] if bad else []
    return found, notes


def _supported(subject: Subject, own: Dataset | None) -> Subject:
    """`subject` with the run's validation and training images that `own` still holds.

    Args:
        subject: without them.
        own: the run's images, or what is left of them; None if they can't be found.
    """
    val, val_missing = _found(subject.run, "val", own)
    train, train_missing = _found(subject.run, "train", own)
    notes = [
        *_on_missing("Calibration", "validation", len(val or ()), val_missing),
        *_on_missing("The search for copies", "training", len(train or ()), train_missing),
    ]
    trained = {row.sha256 for row in subject.run.splits() if row.split == "train" and row.sha256}
    digests = subject.split.dataset.digests
    # Without a search for copies, at least identical images are found.
    if not train and (known := sum(digest in trained for digest in digests)):
        notes.append(
            f"{known:,} of these {len(digests):,} images were trained on: they have the same SHA-256 as one in the "
            "training split. Remove them."
        )
    return replace(subject, notes=(*subject.notes, *notes), val=val, train=train)


def _found(run: Run, name: str, own: Dataset | None) -> tuple[Split | None, int]:
    """The images of a split that `own` holds, None for none, and how many it lacks."""
    if own is None:
        return None, sum(row.split == name for row in run.splits())
    split, missing = run.found(name, own)
    return split or None, len(missing)


def _on_missing(what: str, split: str, left: int, missing: int) -> list[str]:
    if not missing:
        return []
    if not left:
        return [f"{what} was left out: the run's {missing:,} {split} images can't be found."]
    return [f"{what} used the {left:,} {split} images that are left; {missing:,} are missing."]
