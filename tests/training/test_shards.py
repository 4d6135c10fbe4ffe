"""Trainings on TFRecord files."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from data import tfrecords
from tests.data import records
from training.config import TrainConfig, resolved
from training.fit import train


def test_shards_and_memory_give_the_same_network(
    picture_folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        records.example(path.read_bytes(), None, path.parent.name) for path in sorted(picture_folder.rglob("*.jpg"))
    ]
    for shard in range(3):
        records.write(tmp_path / f"train-{shard:05d}-of-00003", rows[shard::3])
    flags = {"model": "lenet5", "image_size": 16, "batch_size": 8, "learning_rate": 1e-3, "epochs": 2, "cache": "none"}
    runs = []
    for place, limit in (("memory", tfrecords.KEPT_BYTES), ("shards", 0)):
        monkeypatch.setattr(tfrecords, "KEPT_BYTES", limit)
        config = TrainConfig(**flags, data=str(tmp_path / "train-*"), run_dir=str(tmp_path / place))
        runs.append(train(resolved(config), "test"))
    assert [len({row.address for row in run.splits()}) for run in runs] == [40, 40]
    for one, other in zip(*(run.load_model().get_weights() for run in runs), strict=True):
        np.testing.assert_array_equal(one, other)
    assert runs[0].test_metrics() == runs[1].test_metrics()
