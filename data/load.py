"""Which kind of source `--data` names."""

from __future__ import annotations

import os
import re

import tensorflow as tf

from data import catalog, csv_table, digits, folder, tfrecords
from data.crew import ALONE, Crew
from data.names import printable
from data.source import Source
from errors import UserError

_WILDCARDS = re.compile(r"[*?\[]")


def load(data: str, data_dir: str | None = None, crew: Crew = ALONE) -> Source:
    """Finds the images that `data` names.

    Args:
        data: a folder with one sub-folder per class, a `.csv` of `path,label`, TFRecord files (one, or a pattern with
            `*`), `digits`, or a TFDS name.
        data_dir: where TFDS keeps prepared data sets; None for its default.
        crew: the processes that prepare the same data.

    Raises:
        UserError: there is no such source, or it can't be used.
    """
    if data == "digits":
        return digits.load()
    # TensorFlow takes a path that isn't UTF-8 as bytes only.
    path, shown = os.fsencode(data), printable(data)
    if tf.io.gfile.isdir(path):
        return folder.load(data)
    if tf.io.gfile.exists(path):
        if data.lower().endswith(".csv"):
            return csv_table.load(data)
        if "tfrecord" in os.path.basename(data).lower():
            return tfrecords.load(data, crew)
        raise UserError(
            "--data must be a folder, a .csv file of path,label, or TFRecord files such as 'FOLDER/train-*'. Received "
            f"the file {shown}."
        )
    if _WILDCARDS.search(data):
        return tfrecords.load(data, crew)
    if os.sep in data or data.lower().endswith(".csv"):
        raise UserError(f"--data={shown} doesn't exist. Check the path, or pass a TensorFlow Datasets name or digits.")
    return catalog.load(data, data_dir, crew)
