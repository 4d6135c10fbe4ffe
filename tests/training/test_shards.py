"""Trainings on TFRecord files."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from data import load
from errors import UserError
from tests.data import records
from tests.data.encoded import jpeg
from training import examples
from training.config import TrainConfig
from training.resolve import resolved
from training.trainer import train


def test_shards_and_memory_give_the_same_network(
    image_folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [records.example(path.read_bytes(), None, path.parent.name) for path in sorted(image_folder.rglob("*.jpg"))]
    for shard in range(3):
        records.write(tmp_path / f"train-{shard:05d}-of-00003", rows[shard::3])
    flags = {"model": "lenet5", "image_size": 16, "batch_size": 8, "learning_rate": 1e-3, "epochs": 2, "cache": "none"}
    runs = []
    for place in ("memory", "shards"):
        if place == "shards":
            records.leave_in_shards(monkeypatch)
        config = TrainConfig(**flags, data=str(tmp_path / "train-*"), run_dir=str(tmp_path / place))
        runs.append(train(resolved(config), "test"))
    assert [len({row.address for row in run.splits()}) for run in runs] == [40, 40]
    for one, other in zip(*(run.load_model().get_weights() for run in runs), strict=True):
        np.testing.assert_array_equal(one, other)
    assert runs[0].test_metrics() == runs[1].test_metrics()


def test_a_shard_that_changes_while_training_is_explained(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.leave_in_shards(monkeypatch)
    path = tmp_path / "a.tfrecord"
    records.write(path, [records.example(jpeg(), label) for label in (1, 2)])
    read = tf.data.Dataset.range(2).map(load(str(path)).reader())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="must stay as they are"), examples.unchanged(TrainConfig(data=str(path))):
        list(read)
