"""The best epoch's model together with its validation loss, in one file, so that no kill can part them."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass

import keras

from data.files import replacing_from_local
from models import weights
from models.weights import local_copy
from training.run import MODEL, read_history, recorded_checksums


@dataclass(frozen=True)
class Kept:
    """The epoch whose model is in model.keras.

    Attributes:
        loss: its validation loss; infinite when there is no model.
        epoch: its number as in history.csv, counted from 1; None when there is no model.
    """

    loss: float
    epoch: int | None = None


def keep(run_dir: str, model: keras.Model, loss: float, epoch: int | None = None) -> None:
    """Replaces model.keras; loss and epoch go along as the comment of the zip archive, which Keras skips.

    So do the checksums of the run's labels.txt and splits.csv, by which the model of another run is told.

    Raises:
        UserError: the disk is full, or the place can't be written to.
    """
    with replacing_from_local(os.path.join(run_dir, MODEL)) as file:
        model.save(file)
        with zipfile.ZipFile(file, "a") as archive:
            noted = {"val_loss": loss, "epoch": epoch, "sha256": recorded_checksums(run_dir)}
            archive.comment = json.dumps(noted).encode()


def kept(run_dir: str) -> Kept:
    """Which epoch model.keras is of; it may be a later one than that of the last checkpoint.

    What its comment doesn't say is that of the lowest loss of history.csv, which is written after it.
    """
    try:
        with local_copy(os.path.join(run_dir, MODEL)) as file, zipfile.ZipFile(file) as archive:
            noted = json.loads(archive.comment)
        return Kept(float(noted["val_loss"]), noted.get("epoch") or _lowest(run_dir).epoch)
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError):
        return _lowest(run_dir)


def _lowest(run_dir: str) -> Kept:
    rows = [Kept(float(row["val_loss"]), int(row["epoch"])) for row in read_history(run_dir)]
    return min(rows, key=lambda row: row.loss, default=Kept(float("inf")))


def restore(run_dir: str, model: keras.Model, name: str) -> None:
    """Gives `model`, the network `name` of the registry, the weights of model.keras; all other state stays.

    Raises:
        UserError: the file is damaged.
    """
    weights.load(model, name, os.path.join(run_dir, MODEL), include_head=True)
