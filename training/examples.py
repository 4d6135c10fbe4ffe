"""Finds, scans and splits the images of a run, before a model exists."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

import data
import errors
from data import splits, validation
from data.dataset import Dataset
from data.names import printable
from errors import UserError
from training.config import TrainConfig

# In TensorFlow's messages when a decoder fails or a shard has another length, and when a file is missing.
_DECODING = re.compile("Decode(Jpeg|Image|Bmp|Png|Gif)|ExtractJpegShape|not a JPEG|GIF block|first frame|body length")
_MISSING = re.compile(r"[^\s:]*/[^;\n]*; [\w ]+")


@dataclass(frozen=True)
class Examples:
    """Usable images with their splits.

    Attributes:
        dataset: the images that can be trained on, with their digests.
        splits: `train`, `val`, `test` or `unused` for each image.
        skipped: address and reason of each image that was left out.
    """

    dataset: Dataset
    splits: np.ndarray
    skipped: list[tuple[str, str]]

    def split(self, name: str) -> Dataset:
        """The images of one split."""
        return self.dataset.take(np.flatnonzero(self.splits == name))


@contextlib.contextmanager
def unchanged(config: TrainConfig) -> Iterator[None]:
    """Raises `UserError` when an image that the scan could read can't be read any more."""
    try:
        yield
    except (tf.errors.NotFoundError, tf.errors.PermissionDeniedError, tf.errors.InvalidArgumentError) as error:
        if isinstance(error, tf.errors.InvalidArgumentError) and not _DECODING.search(error.message):
            raise
        missing = _MISSING.search(error.message)
        raise UserError(
            f"The images in --data={printable(config.data)} must stay as they are while a training reads them. "
            f"Received: {missing[0] if missing else 'one that can no longer be decoded'}. Put them back and pass "
            "--resume, or pass --cache=memory or disk, which read each only once."
        ) from error


def gather(config: TrainConfig, workers: Any = None) -> Examples:
    """Finds, scans and splits the images that `config` names.

    Args:
        config: the flags of the run.
        workers: share the scan, see `data.load`; each gets all findings.

    Raises:
        UserError: there are none, some are unreadable and `on_bad_image` is `fail`, or they are too few to split.
    """
    dataset = data.load(config.data, config.data_dir, workers)
    inspections = validation.scan(dataset, workers)
    usable = validation.usable(dataset, inspections, config.on_bad_image)
    skipped = [(a, i.problem) for a, i in zip(dataset.addresses, inspections, strict=True) if i.problem]
    if skipped:
        print(
            f"Training without {len(skipped):,} of {errors.counted(len(dataset), 'file')} without a usable image:\n"
            f"{validation.list_bad(dataset, inspections)}",
            file=sys.stderr,
        )
    odd = validation.list_odd(dataset, inspections)
    if odd and dataset.holds_paths:
        print(f"Unusual, but usable:\n{odd}", file=sys.stderr)
    _report_copies(usable)
    fractions = splits.Fractions(config.train_fraction, config.val_fraction, config.test_fraction)
    return Examples(usable, splits.assign(usable, fractions), skipped)


def _report_copies(dataset: Dataset) -> None:
    """Reports copies, which stay in one split, and identical images with two labels, which can't both be right."""
    first: dict[str, int] = {}
    copies, pairs = 0, []
    for i, digest in enumerate(dataset.digests):
        j = first.setdefault(digest, i)
        copies += i != j
        if dataset.labels[i] != dataset.labels[j]:
            pairs.append(f"  {dataset.addresses[j]} and {dataset.addresses[i]}")
    if copies:
        what = "image is a copy of another" if copies == 1 else "images are copies of others"
        print(f"{copies:,} {what}; copies stay in the same split.", file=sys.stderr)
    if pairs:
        listed = printable("\n".join(pairs[:10]))
        print(
            f"{errors.counted(len(pairs), 'pair')} of identical images with different labels:\n{listed}",
            file=sys.stderr,
        )
