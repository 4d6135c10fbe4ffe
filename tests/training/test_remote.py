"""Images, weights, run folder, report and export on `ram://`, TensorFlow's file system in memory."""

from __future__ import annotations

import dataclasses
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import models
from errors import UserError
from evaluation import assessment, predictions, report, subject
from models import saved_models, weights
from serving.export import export_run
from tests.witness import raise_at_epoch_end
from training import best_model
from training.config import TrainConfig
from training.resolve import resolved
from training.run import Run
from training.trainer import train

ROOT = "ram://darkroom"


@pytest.fixture(scope="module")
def remote_photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two classes of twenty images each."""
    from tests.conftest import encode, stripes

    for name in ("lying", "upright"):
        tf.io.gfile.makedirs(f"{ROOT}/photos/{name}")
        for i in range(20):
            with tf.io.gfile.GFile(f"{ROOT}/photos/{name}/{i:02d}.jpg", "wb") as file:
                file.write(encode(stripes(i + 100 * (name == "upright"), upright=name == "upright")))
    return f"{ROOT}/photos"


def test_from_training_to_prediction_without_a_local_path(remote_photos: str, tmp_path: pathlib.Path) -> None:
    local = str(tmp_path / "start.weights.h5")
    keras.utils.set_random_seed(1)
    models.build("lenet5", 2, image_size=16, transfer=True).save_weights(local)
    tf.io.gfile.copy(local, f"{ROOT}/start.weights.h5", overwrite=True)
    flags = {"model": "lenet5", "image_size": 16, "freeze": True, "epochs": 2, "fine_tune_epochs": 1}
    config = TrainConfig(
        **flags, data=remote_photos, weights=f"{ROOT}/start.weights.h5", run_dir=f"{ROOT}/run", checkpoint_minutes=0
    )

    run = train(resolved(config), "test")
    kept = {"config.json", "curves.png", "history.csv", "labels.txt", "model.keras", "splits.csv", "test.json"}
    assert {name.rstrip("/") for name in tf.io.gfile.listdir(run.path)} == kept | {"checkpoint"}
    lowest = min(float(row["val_loss"]) for row in run.history())
    assert best_model.kept(run.path).loss == pytest.approx(lowest, abs=1e-6)

    run, model = Run.open(run.path), Run.open(run.path).load_model()
    images = subject.own_test_split(run, "model.keras")
    assessed = assessment.assess(images, predictions.from_model(model, run.heads), 8)
    assert assessed.numbers["accuracy"] == pytest.approx(run.test_metrics()["accuracy"])
    assert tf.io.gfile.exists(report.write(assessed, model, run.file("report")))
    assert tf.io.gfile.exists(report.write_card(assessed))

    version = export_run(run)
    assert version == f"{ROOT}/run/export/1"
    served = predictions.from_saved_model(saved_models.newest(run.file("export")), run.heads)
    split = run.split("test")
    np.testing.assert_allclose(
        served(split, 8, "served").probabilities,
        predictions.from_model(model, run.heads)(split, 8, "here").probabilities,
        atol=1e-5,
    )

    paths = predictions.find_files([f"{remote_photos}/lying", f"{ROOT}/no.jpg"])
    answer, channels = predictions.answering(model, run.heads), models.find("lenet5").channels
    rows = list(predictions.of_files(paths, answer, image_size=16, channels=channels, batch_size=8))
    assert len(rows) == 21
    assert all(answer for _, answer, _ in rows[:20]) and "can't be read" in rows[20][2]


def test_an_unfinished_run_is_resumed(remote_photos: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {"model": "lenet5", "image_size": 16, "data": remote_photos, "run_dir": f"{ROOT}/resumed", "epochs": 2}
    resumed = resolved(TrainConfig(**flags, checkpoint_minutes=0, resume=True))

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        raise_at_epoch_end(patch, 2, KeyboardInterrupt())
        train(dataclasses.replace(resumed, resume=False), "test")
    assert tf.io.gfile.exists(f"{ROOT}/resumed/checkpoint")
    run = train(resumed, "test")
    assert [row["epoch"] for row in run.history()] == ["1", "2"]
    assert tf.io.gfile.exists(f"{ROOT}/resumed/test.json")
    with pytest.raises(UserError, match="has finished"):
        train(resumed, "test")


def test_missing_and_wrong_remote_files_are_explained() -> None:
    model = models.build("lenet5", 2, image_size=16)
    with pytest.raises(UserError, match=f"{ROOT}/none.weights.h5.*no such file"):
        weights.load(model, "lenet5", f"{ROOT}/none.weights.h5")
    with pytest.raises(UserError, match="no such file"):
        weights.load_trained(f"{ROOT}/none.keras")


def test_a_run_folder_inside_remote_images_is_refused() -> None:
    with pytest.raises(UserError, match="outside the images"):
        resolved(TrainConfig(model="lenet5", data="gs://bucket/photos", run_dir="gs://bucket/photos/run"))
