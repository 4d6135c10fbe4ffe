"""Splits of a data set into training, validation and test images, decided before any pipeline exists."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import errors
from data.dataset import Dataset
from data.names import shortened
from errors import UserError

SPLITS = ("train", "val", "test")
UNUSED = "unused"


@dataclass(frozen=True)
class Fractions:
    """Fractions of all images, each in 0-1, together at most 1; the rest is unused."""

    train: float
    val: float
    test: float


def assign(dataset: Dataset, fractions: Fractions) -> np.ndarray:
    """Assigns each image to a split.

    The images of a class are sorted by a hash of their content and cut: first the test split, then validation, then
    training. So the splits are stratified; they are the same on every run, machine and order of files; identical
    images are in one split; and a smaller `train` is a subset of a larger one, with the same validation and test
    splits. If the publisher set images apart for testing, they are the test split, and the other two fractions,
    divided by 1 - `test`, apply to the rest.

    Args:
        dataset: the images, validated.
        fractions: of each class in each split.

    Returns:
        an array of `train`, `val`, `test` or `unused`, one for each image.

    Raises:
        UserError: a split is empty, or a class has no image in training.
    """
    ranks = _rank_by_content(dataset.known_digests)
    splits = np.full(len(dataset), UNUSED, dtype="<U6")
    free = np.arange(len(dataset))
    if dataset.is_test is not None:
        splits[dataset.is_test] = "test"
        # A copy of a test image must not be trained on.
        free = np.flatnonzero(~np.isin(ranks, ranks[dataset.is_test]))
        fractions = _without_test(fractions)
    for label in range(len(dataset.class_names)):
        members = free[dataset.labels[free] == label]
        _cut(members[np.argsort(ranks[members], kind="stable")], fractions, splits)
    _keep_identical_together(free, ranks, splits)
    _check(dataset, splits, copies=len(ranks) - len(np.unique(ranks)))
    return splits


def split(dataset: Dataset, train: float = 0.8, val: float = 0.1, test: float = 0.1) -> dict[str, Dataset]:
    """The images of each split, as `train.py` splits them; see `assign` for the fractions and errors."""
    splits = assign(dataset, Fractions(train, val, test))
    return {name: dataset.take(np.flatnonzero(splits == name)) for name in SPLITS}


def _rank_by_content(digests: Sequence[str]) -> np.ndarray:
    """The rank of each image's content in a random but fixed order; identical images share it."""
    keys = [hashlib.sha256(f"split {digest}".encode()).digest() for digest in digests]
    place = {key: i for i, key in enumerate(sorted(set(keys)))}
    return np.asarray([place[key] for key in keys])


def _without_test(fractions: Fractions) -> Fractions:
    """The fractions of the images outside a given test split."""
    rest = max(1 - fractions.test, 1e-9)
    return Fractions(fractions.train / rest, fractions.val / rest, 0.0)


def _cut(members: np.ndarray, fractions: Fractions, splits: np.ndarray) -> None:
    """Assigns splits to the images of one class, sorted by content."""
    test = _share(len(members), fractions.test)
    val = _share(len(members), fractions.val)
    everything = fractions.train + fractions.val + fractions.test > 1 - 1e-9
    train = len(members) - test - val if everything else _share(len(members), fractions.train)
    splits[members[:test]] = "test"
    splits[members[test : test + val]] = "val"
    splits[members[test + val : test + val + train]] = "train"


def _share(count: int, fraction: float) -> int:
    """At least one image of a class in each split whose fraction isn't 0."""
    return max(round(count * fraction), 1) if fraction > 0 else 0


def _keep_identical_together(free: np.ndarray, ranks: np.ndarray, splits: np.ndarray) -> None:
    """Moves identical images that a cut or two classes have separated into one split, preferably the test's."""
    duplicated = free[np.bincount(ranks[free])[ranks[free]] > 1]
    for rank in np.unique(ranks[duplicated]):
        same = duplicated[ranks[duplicated] == rank]
        splits[same] = next(split for split in ("test", "val", "train", UNUSED) if split in splits[same])


def _of_which_are_copies(copies: int) -> str:
    if copies == 1:
        return ", of which 1 is a copy that stays with its original"
    return f", of which {copies:,} are copies that stay with their originals" if copies else ""


def _check(dataset: Dataset, splits: np.ndarray, copies: int) -> None:
    for split in SPLITS:
        counts = np.bincount(dataset.labels[splits == split], minlength=len(dataset.class_names))
        missing = [name for name, count in zip(dataset.class_names, counts, strict=True) if count == 0]
        if split == "train" and missing or not counts.any():
            raise UserError(
                f"The {split} split must hold images{' of each class' if split == 'train' else ''}. Received none of: "
                f"{shortened(missing)}, from {errors.counted(len(dataset), 'image')} in "
                f"{errors.counted(len(dataset.class_names), 'class')}{_of_which_are_copies(copies)}. Add images "
                "(at least three per class) or change `train_fraction`, `val_fraction` and `test_fraction`."
            )
