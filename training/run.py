"""The run folder, the only thing that the scripts share."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import data
import errors
import models
from data.batches import Batches
from data.dataset import Dataset
from data.names import printable, shortened
from errors import UserError
from models import weights
from training import best_model, run_files, run_record
from training.config import CONFIG, TrainConfig
from training.heads import Head, heads_of
from training.run_files import LABELS, MODEL, SPLITS, TEST, SplitRow


@dataclass(frozen=True)
class Split:
    """The images of one split of a run, in the order of `splits.csv`."""

    dataset: Dataset
    image_size: int
    channels: int

    @property
    def addresses(self) -> tuple[str, ...]:
        """The address of each image."""
        return self.dataset.addresses

    @property
    def labels(self) -> np.ndarray:
        """int64 class indices."""
        return self.dataset.labels

    def __len__(self) -> int:
        return len(self.dataset)

    def pixels(self, batch_size: int = 32) -> tf.data.Dataset:
        """Batches of uint8 pixels in 0-255, shape `(batch, size, size, channels)`, every image once, in order."""
        batches = Batches(self.dataset, batch_size=batch_size, image_size=self.image_size, channels=self.channels)
        return batches.evaluation().map(lambda pixels, _: pixels)

    def encoded(self, index: int) -> bytes:
        """The bytes of one image's file."""
        return self.dataset.encoded(index)


@dataclass(frozen=True)
class Run:
    """A run folder, opened for reading."""

    path: str
    config: TrainConfig
    class_names: tuple[str, ...]

    @classmethod
    def open(cls, path: str) -> Run:
        """Opens the folder that `train.py` wrote, and checks each text file in it.

        Raises:
            UserError: there is no such folder, it is not a run folder, or a file in it is missing or was changed.
        """
        for name in (CONFIG, LABELS):
            if not tf.io.gfile.exists(os.path.join(path, name)):
                problem = f"has no {name}" if tf.io.gfile.isdir(path) else "is not a folder"
                raise UserError(
                    "A run must be the folder that train.py has written, such as runs/NAME. Received: "
                    f"{path or 'none'}, which {problem}."
                )
        names = run_files.read(os.path.join(path, LABELS), run_files.parse_labels)
        run = cls(path, run_record.read_config(path), names)
        run._check_files()
        return run

    def _check_files(self) -> None:
        """Checks even files that the caller may not need, so that all scripts refuse a damaged folder alike."""
        checksums = self._checksums
        if checksums:
            run_files.check_unchanged(self.file(LABELS), run_files.parse_labels, checksums[LABELS])
            run_files.check_unchanged(self.file(SPLITS), run_files.parse_splits, checksums[SPLITS])
        else:
            run_files.check_classes(self.file(LABELS), self.class_names, self.splits())
        self.history()
        self.test_metrics()

    @property
    def _checksums(self) -> dict[str, str]:
        """SHA-256 of the files that don't change after the start; empty in a run of an older version."""
        return self.details().get("sha256", {})

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads of the model."""
        return heads_of(self.config.model, self.class_names)

    def file(self, name: str) -> str:
        """The path of the file `name` in the run folder."""
        return os.path.join(self.path, name)

    def details(self) -> dict[str, Any]:
        """The content of config.json: flags, versions, git commit, devices, command, parameters, training seconds."""
        return run_files.read(self.file(CONFIG), run_record.parse)

    def load_model(self) -> keras.Model:
        """The network at its best epoch, not compiled.

        Raises:
            UserError: the run has not finished an epoch, or the file is damaged or belongs to another run.
        """
        if not tf.io.gfile.exists(self.file(MODEL)) and not self.history():
            raise UserError(
                f"{self.path} has no {MODEL}: the run hasn't finished its first epoch. "
                f"Resume by `{errors.command('train.py', '--resume', f'--run_dir={self.path}')}`."
            )
        self.check_model()
        model = weights.load_trained(self.file(MODEL))
        best_model.check_fits(self.file(MODEL), model, self.config, len(self.class_names))
        return model

    def check_model(self) -> None:
        """Raises `UserError` unless model.keras exists, is whole, and belongs to this run."""
        best_model.check_whole(self.file(MODEL), self._checksums)

    def splits(self) -> list[SplitRow]:
        """Every image of the run with its class and split."""
        return self._rows

    @functools.cached_property
    def _rows(self) -> list[SplitRow]:
        return run_files.read(self.file(SPLITS), run_files.parse_splits)

    def split(self, name: str) -> Split:
        """The images of one split: `train`, `val` or `test`.

        Raises:
            UserError: the data set can't be found any more, or lacks an image of the split.
        """
        split, missing = self.found(name, self.dataset)
        if missing:
            raise UserError(
                f"--data={printable(self.config.data)} must still hold the images and classes that {self.path} was "
                f"trained with. {len(missing)} of {len(missing) + len(split)} images of the {name} split are missing: "
                f"{shortened(missing)}. Put them back, or pass their new folder to evaluate.py as --data."
            )
        return split

    def found(self, name: str, dataset: Dataset) -> tuple[Split, list[str]]:
        """The images of one split that `dataset` holds, by address and class, and the addresses of the missing ones."""
        labels = {label: i for i, label in enumerate(self.class_names)}
        names = [dataset.class_names[label] for label in dataset.labels]
        places = {key: i for i, key in enumerate(zip(dataset.addresses, names, strict=True))}
        rows = [row for row in self.splits() if row.split == name]
        here = [row for row in rows if (row.address, row.label) in places]
        chosen = dataset.take(np.asarray([places[row.address, row.label] for row in here], np.int64))
        own = replace(chosen, labels=np.asarray([labels[row.label] for row in here], np.int64))
        missing = [row.address for row in rows if (row.address, row.label) not in places]
        return self.as_split(replace(own, class_names=self.class_names)), missing

    def as_split(self, dataset: Dataset) -> Split:
        """`dataset`, whose labels are the run's class indices, at the image size of its network."""
        return Split(dataset, self.config.image_size or 0, models.find(self.config.model).channels)

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The run's data set, read once: one that is held in memory takes seconds to read."""
        return data.load(self.config.data, self.config.data_dir)

    def history(self) -> list[dict[str, str]]:
        """A dict for each finished epoch, numbers as text."""
        return run_files.read_history(self.path)

    def test_metrics(self) -> dict[str, float]:
        """The metrics in test.json; empty when the run hasn't finished."""
        if not tf.io.gfile.exists(self.file(TEST)):
            return {}
        return run_files.read(self.file(TEST), run_files.parse_metrics)
