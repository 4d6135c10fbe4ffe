"""Data sets of labelled images, splits, augmentation and batches. Knows nothing of models.

`data.load("photos/")` finds images, `data.batches.Batches` makes batches of them.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from data.names import printable
from errors import UserError

if TYPE_CHECKING:
    from data.dataset import Dataset

_WILDCARDS = re.compile(r"[*?\[]")


def load(data: str, data_dir: str | None = None, workers: Any = None) -> Dataset:
    """Finds the images that `data` names.

    Args:
        data: a folder with one sub-folder per class, a `.csv` of `path,label`, TFRecord files (one, or a pattern with
            `*`), `digits`, or a TFDS name.
        data_dir: where TFDS keeps prepared data sets; None for its default.
        workers: the processes that load the same data set, of which each reads its share; their method `share` has the
            arguments and the result of `training.distributed.workers.Workers.share`. None for this process alone.

    Raises:
        UserError: there is no such data set, or it can't be used.
    """
    # Programs that only check their flags don't wait for TensorFlow.
    import tensorflow as tf

    from data import csv_table, folder, tfds, tfrecords

    if data == "digits":
        return tfds.load_digits()
    # TensorFlow takes a path that isn't UTF-8 as bytes only.
    path, shown = os.fsencode(data), printable(data)
    if tf.io.gfile.isdir(path):
        return folder.load(data)
    if tf.io.gfile.exists(path):
        if data.lower().endswith(".csv"):
            return csv_table.load(data)
        if "tfrecord" in os.path.basename(data).lower():
            return tfrecords.load(data, workers)
        raise UserError(
            "`data` must be a folder, a .csv file of path,label, or TFRecord files such as 'FOLDER/train-*'. Received "
            f"the file {shown}."
        )
    if _WILDCARDS.search(data):
        return tfrecords.load(data, workers)
    if os.sep in data or data.lower().endswith(".csv"):
        raise UserError(
            f"`data` must name files that exist. Received: {shown}, which doesn't exist. Check the path, or pass a "
            "TensorFlow Datasets name or digits."
        )
    return tfds.load(data, data_dir, workers)
