"""Which kind of source `--data` names."""

from __future__ import annotations

import os

import tensorflow as tf

from data import catalog, csv_table, digits, folder
from data.names import printable
from data.source import Source
from errors import UserError


def load(data: str, data_dir: str | None = None) -> Source:
    """Finds the pictures that `data` names.

    Args:
        data: a folder with one sub-folder a class, a `.csv` of `path,label`, `digits`, or a TFDS name.
        data_dir: where TFDS keeps prepared data sets; None for its default.

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
        raise UserError(f"--data must be a folder or a .csv file of path,label. Received the file {shown}.")
    if os.sep in data or data.lower().endswith(".csv"):
        raise UserError(f"--data={shown} doesn't exist. Check the path, or pass a TensorFlow Datasets name or digits.")
    return catalog.load(data, data_dir)
