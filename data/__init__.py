"""Data sets of labelled images, splits, augmentation and batches. Independent of models.

`data.load("photos/")` finds images, `data.validate` checks them, `data.split` splits them, and `data.Batches` makes
batches of them. Importing this package imports no TensorFlow, so that `--help` is quick.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

import startup
from data.names import printable
from errors import UserError

if TYPE_CHECKING:
    from data.dataset import Dataset

# One module per kind of data set, in the order in which they are tried. Each has `accepts(data)`, whether `data` is of
# its kind, and `load`, with the arguments and the result of the one below.
SOURCES = ["data.digits", "data.folder", "data.csv_table", "data.tfrecords", "data.tfds"]

# From each level of augmentation to the function, `module:name`, that returns its layers.
AUGMENTATIONS = {"none": "data.augment:none", "basic": "data.augment:basic", "full": "data.augment:full"}


__getattr__ = startup.lazy(
    __name__, {"Batches": "data.batches:Batches", "split": "data.splits:split", "validate": "data.validation:validate"}
)


def load(data: str, data_dir: str | None = None, workers: Any = None) -> Dataset:
    """Finds the images that `data` names.

    Args:
        data: a folder with one sub-folder per class, a `.csv` of `path,label`, TFRecord files (one, or a pattern with
            `*`), `digits`, or a TFDS name.
        data_dir: where TFDS keeps prepared data sets; None for its default.
        workers: the processes that load the data set together, each reading its share; their method `share` has the
            arguments and the result of `training.distributed.workers.Workers.share`. None for a single process.

    Raises:
        UserError: there is no such data set, or it can't be used.
    """
    startup.load_tensorflow()
    for name in SOURCES:
        source = importlib.import_module(name)
        if source.accepts(data):
            return source.load(data, data_dir, workers)
    import tensorflow as tf

    if tf.io.gfile.exists(os.fsencode(data)):
        raise UserError(
            "`data` must be a folder, a .csv file of path,label, or TFRecord files such as 'FOLDER/train-*'. Received "
            f"the file {printable(data)}."
        )
    raise UserError(
        f"`data` must name files that exist. Received: {printable(data)}, which doesn't exist. Check the path, or pass "
        "a TensorFlow Datasets name or digits."
    )
