"""The best epoch's model together with its validation loss, in one file, so that no kill can part them."""

from __future__ import annotations

import json
import os
import zipfile

import keras

from data.local_file import replacing_from_local
from models.weights import local_copy
from training.run import MODEL, read_history


def keep(run_dir: str, model: keras.Model, loss: float) -> None:
    """Replaces model.keras; its validation loss goes along as the comment of the zip archive, which Keras skips.

    Raises:
        UserError: the disk is full, or the place can't be written to.
    """
    with replacing_from_local(os.path.join(run_dir, MODEL)) as file:
        model.save(file)
        with zipfile.ZipFile(file, "a") as archive:
            archive.comment = json.dumps({"val_loss": loss}).encode()


def kept_loss(run_dir: str) -> float:
    """The validation loss of model.keras, which may be of a later epoch than the last checkpoint.

    Infinite when there is no model. Without a comment, the lowest loss of history.csv, which is written after it.
    """
    path = os.path.join(run_dir, MODEL)
    try:
        with local_copy(path) as file, zipfile.ZipFile(file) as archive:
            return float(json.loads(archive.comment)["val_loss"])
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError):
        return min((float(row["val_loss"]) for row in read_history(run_dir)), default=float("inf"))
