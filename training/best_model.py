"""model.keras: the best epoch's model and its validation loss, in one file, so that a kill can't separate them."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

import models
from data.files import replacing_from_local
from models import weights
from models.weights import local_copy
from training.config import TrainConfig
from training.heads import by_head
from training.run_files import MODEL, DamagedError, read_history, refusing
from training.run_record import recorded_checksums


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
    """Replaces model.keras; loss and epoch go into the comment of the zip archive, which Keras skips.

    So do the checksums of the run's labels.txt and splits.csv, which tell it from the model of another run.

    Raises:
        UserError: the disk is full, or the folder can't be written to.
    """
    with replacing_from_local(os.path.join(run_dir, MODEL)) as file:
        model.save(file)
        with zipfile.ZipFile(file, "a") as archive:
            note = {"val_loss": loss, "epoch": epoch, "sha256": recorded_checksums(run_dir)}
            archive.comment = json.dumps(note).encode()


def kept(run_dir: str) -> Kept:
    """The epoch whose model is in model.keras, which may be later than the last checkpoint.

    What its comment lacks comes from the row with the lowest loss in history.csv, which is written after it.
    """
    try:
        with local_copy(os.path.join(run_dir, MODEL)) as file, zipfile.ZipFile(file) as archive:
            note = _note(archive)
        return Kept(float(note["val_loss"]), note.get("epoch") or _lowest(run_dir).epoch)
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError):
        return _lowest(run_dir)


def restore(run_dir: str, model: keras.Model, name: str) -> None:
    """Loads the weights of model.keras into `model`, the network `name` of the registry; all other state stays.

    Raises:
        UserError: the file is damaged.
    """
    weights.load(model, name, os.path.join(run_dir, MODEL), include_head=True)


def check_whole(path: str, checksums: dict[str, str]) -> None:
    """Checks the archive, and that it was saved in the run with these checksums of labels.txt and splits.csv.

    Raises:
        UserError: it is missing, damaged, or from another run.
    """
    with refusing(path):
        if not tf.io.gfile.exists(path):
            raise DamagedError("no such file")
        try:
            with tf.io.gfile.GFile(path, "rb") as file, zipfile.ZipFile(file) as archive:
                damaged = _first_damaged(archive, file.size())
                note = _note(archive)
        except Exception as problem:  # A damaged archive can raise anything.
            raise DamagedError("a file that is cut off or no model at all") from problem
        if damaged:
            raise DamagedError(f"an archive in which {damaged} is damaged")
        # An older version of this program recorded nothing to compare with.
        if checksums and note.get("sha256") != checksums:
            raise DamagedError("the model of another run, by its note of that run's labels.txt and splits.csv")


def check_fits(path: str, model: keras.Model, config: TrainConfig, num_classes: int) -> None:
    """Raises `UserError` unless the input and outputs of `model` fit the other files of its run."""
    spec = models.find(config.model)
    size = config.image_size or spec.image_size
    expected = (size, size, spec.channels)
    received = tuple(model.get_layer("backbone").input_shape[1:])
    with refusing(path):
        if any(side not in (None, wanted) for side, wanted in zip(received, expected, strict=False)):
            raise DamagedError(f"a model of images of shape {received}, where config.json says {expected}")
        outputs = model.compute_output_spec(keras.KerasTensor((1, *expected)), training=False)
        heads = by_head(outputs)
        logits = heads["class"].shape[-1] if "class" in heads else 0
        if set(heads) != set(spec.heads) or logits != (1 if num_classes == 2 else num_classes):
            raise DamagedError(
                f"a model with {logits} logits and the heads {', '.join(heads)}, which do not fit the {num_classes} "
                f"classes in labels.txt and the heads {', '.join(spec.heads)}"
            )


def _lowest(run_dir: str) -> Kept:
    rows = [Kept(float(row["val_loss"]), int(row["epoch"])) for row in read_history(run_dir)]
    return min(rows, key=lambda row: row.loss, default=Kept(float("inf")))


def _first_damaged(archive: zipfile.ZipFile, size: int) -> str | None:
    """The name of the first member that fails its checksum.

    Keras compresses nothing. An archive that unpacks to more than its size isn't read here; loading it refuses it.
    """
    return archive.testzip() if sum(member.file_size for member in archive.infolist()) <= size else None


def _note(archive: zipfile.ZipFile) -> dict[str, Any]:
    try:
        note = json.loads(archive.comment)
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}
