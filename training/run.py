"""The run folder: the only thing that the scripts pass to one another."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import models
import wording
from data import load as sources
from data.files import read_text, write_text
from data.pipeline import Files, ordered_batches
from data.source import Source
from errors import UserError
from models import weights
from training.config import TrainConfig

CONFIG, SPLITS, HISTORY, CURVES = "config.json", "splits.csv", "history.csv", "curves.png"
MODEL, LABELS, TEST, CHECKPOINT = "model.keras", "labels.txt", "test.json", "checkpoint"


@dataclass(frozen=True)
class SplitRow:
    """One line of `splits.csv`: a picture, the name of its class, and `train`, `val`, `test` or `unused`."""

    address: str
    label: str
    part: str


@dataclass(frozen=True)
class Part:
    """The pictures of one part of a run, in the order of `splits.csv`."""

    source: Source
    image_size: int
    channels: int

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where each picture is."""
        return self.source.addresses

    @property
    def labels(self) -> np.ndarray:
        """int64 class indices."""
        return self.source.labels

    def __len__(self) -> int:
        return len(self.source)

    def pixels(self, batch_size: int = 32) -> tf.data.Dataset:
        """Batches of uint8 pixels in 0-255, shape `(batch, size, size, channels)`, every picture once, in order."""
        files = Files(self.source, self.image_size, self.channels)
        return ordered_batches(files, batch_size).map(lambda pixels, _: pixels)

    def encoded(self, index: int) -> bytes:
        """The bytes of one picture's file."""
        return self.source.encoded(index)


@dataclass(frozen=True)
class Run:
    """A run folder, opened for reading."""

    path: str
    config: TrainConfig
    class_names: tuple[str, ...]

    @classmethod
    def open(cls, path: str) -> Run:
        """Opens the folder that `train.py` wrote.

        Raises:
            UserError: there is no such folder, or it is not one of a run.
        """
        for name in (CONFIG, LABELS):
            if not tf.io.gfile.exists(os.path.join(path, name)):
                raise UserError(
                    f"--run must be the folder of a run that train.py has written, such as runs/NAME. "
                    f"Received: --run={path}, which has no {name}."
                )
        class_names = tuple(read_text(os.path.join(path, LABELS)).splitlines())
        return cls(path, read_config(path), class_names)

    def file(self, name: str) -> str:
        """The path of the artefact `name`."""
        return os.path.join(self.path, name)

    def details(self) -> dict[str, Any]:
        """All of config.json: flags, versions, git commit, devices, command, parameters, seconds of training."""
        return json.loads(read_text(self.file(CONFIG)))

    def load_model(self) -> keras.Model:
        """The network at its best epoch, not compiled.

        Raises:
            UserError: the run has not finished an epoch, or the file is damaged.
        """
        if not tf.io.gfile.exists(self.file(MODEL)):
            raise UserError(
                f"{self.path} has no {MODEL}: the run hasn't finished its first epoch. "
                f"Go on with it by `{wording.command('train.py', '--resume', f'--run_dir={self.path}')}`."
            )
        return weights.load_trained(self.file(MODEL))

    def splits(self) -> list[SplitRow]:
        """Every picture of the run with its class and part."""
        rows = csv.reader(io.StringIO(read_text(self.file(SPLITS))))
        next(rows)
        return [SplitRow(*row) for row in rows]

    def part(self, name: str) -> Part:
        """The pictures of one part: `train`, `val` or `test`.

        Raises:
            UserError: the data set can't be found any more, or lacks a picture of the part.
        """
        source = self._source
        places = {address: i for i, address in enumerate(source.addresses)}
        rows = [row for row in self.splits() if row.part == name]
        missing = [row.address for row in rows if row.address not in places]
        if missing or source.class_names != self.class_names:
            raise UserError(
                f"--data={self.config.data} must still hold the pictures and classes that {self.path} was trained "
                f"with. {len(missing)} of {len(rows)} pictures of the {name} part are missing: "
                f"{', '.join(missing[:3]) or 'none'}; its classes are {', '.join(source.class_names[:10])}. "
                "Put them back."
            )
        chosen = source.take(np.asarray([places[row.address] for row in rows], np.int64))
        return Part(chosen, self.config.image_size or 0, models.find(self.config.model).channels)

    @functools.cached_property
    def _source(self) -> Source:
        """Read once, for a data set in memory takes seconds to read."""
        return sources.load(self.config.data, self.config.data_dir)

    def history(self) -> list[dict[str, str]]:
        """A dict for each finished epoch, numbers as text."""
        return read_history(self.path)

    def test_metrics(self) -> dict[str, float]:
        """What test.json says; empty when the run hasn't finished."""
        return json.loads(read_text(self.file(TEST))) if tf.io.gfile.exists(self.file(TEST)) else {}


def read_config(path: str) -> TrainConfig:
    """The flags of the run in `path`, defaults filled in."""
    stored = json.loads(read_text(os.path.join(path, CONFIG)))["flags"]
    known = {item.name for item in dataclasses.fields(TrainConfig)}
    return TrainConfig(**{name: value for name, value in stored.items() if name in known})


def write_json(path: str, value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_splits(path: str, source: Source, parts: Iterable[str]) -> None:
    """Writes splits.csv for the pictures of `source` into the run folder `path`."""
    labels = (source.class_names[label] for label in source.labels)
    rows = zip(source.addresses, labels, parts, strict=True)
    write_text(os.path.join(path, SPLITS), _as_csv([("address", "label", "part"), *rows]))


def write_history(path: str, history: list[dict[str, Any]]) -> None:
    """Writes history.csv: a row an epoch, a column for each name that any row has."""
    columns = list(dict.fromkeys(name for row in history for name in row))
    rows = [[row.get(column, "") for column in columns] for row in history]
    write_text(os.path.join(path, HISTORY), _as_csv([columns, *rows]))


def read_history(path: str) -> list[dict[str, str]]:
    """The rows of history.csv, numbers as text; empty before the first epoch has finished."""
    file = os.path.join(path, HISTORY)
    return list(csv.DictReader(io.StringIO(read_text(file)))) if tf.io.gfile.exists(file) else []


def _as_csv(rows: Iterable[Iterable[Any]]) -> str:
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(rows)
    return table.getvalue()
