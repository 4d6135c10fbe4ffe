"""Losses that are no numbers, and data so poor that a metric could be nonsense."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from errors import UserError
from tests.conftest import encode, stripes
from tests.reliability.test_kill import config
from tests.witness import raise_at_epoch_end
from training import best_model, checkpoint
from training.callbacks import Checkpointer, Fit, StopAtNonFinite
from training.checkpoint import Progress
from training.heads import Objective, make
from training.phases import Phase
from training.run import Run
from training.signals import Signals
from training.trainer import train


def poison(monkeypatch: pytest.MonkeyPatch, value: float, at_step: int) -> None:
    """The targets of one training step become `value`, so that the loss does, and no step before it."""
    really = keras.Model.train_step

    def poisoned(model: keras.Model, batch: tuple) -> dict:
        pixels, targets = batch
        spoilt = tf.where(tf.equal(model.optimizer.iterations.value, at_step - 1), value, 1.0)
        return really(model, (pixels, spoilt * tf.cast(targets, tf.float32) + 1e-30))

    monkeypatch.setattr(keras.Model, "train_step", poisoned)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_run(
    images: pathlib.Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    poison(monkeypatch, value, at_step=5)
    wanted = config(images, f"poisoned-{value}", model="lenet5", deterministic=False)
    with pytest.raises(UserError) as caught:
        train(wanted, command="")
    message = str(caught.value)
    assert "at step 2 of epoch 2, after a mean loss of 0." in message
    assert "learning rate of 0.001" in message and "Try a tenth of it (--learning_rate" in message
    run_dir = wanted.run_dir or ""
    progress = checkpoint.read_progress(run_dir)
    assert progress and (progress.epoch, progress.step) == (1, 1), "the last good step"
    model = Run.open(run_dir).load_model()
    assert all(np.isfinite(variable).all() for variable in model.get_weights())
    assert len(Run.open(run_dir).history()) == 1


def _fitted() -> keras.Model:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(loss="mse")
    model.fit(np.zeros((2, 2)), np.zeros((2, 1)), verbose=0)
    return model


def test_weights_that_are_no_numbers_are_never_saved(tmp_path: pathlib.Path) -> None:
    model = _fitted()
    fit = Fit(str(tmp_path), model, Phase("all", 0, 1, 0.5), Progress(), 10)
    saver = Checkpointer(fit, 0.0, Signals(str(tmp_path)))
    saver.set_model(model)
    saver.on_train_batch_end(0)
    kept = (tmp_path / "checkpoint" / "state.npz").read_bytes()
    model.layers[0].bias.assign([math.nan])
    with pytest.raises(UserError, match="Weights became NaN or infinite at step 3 of epoch 1.*learning rate of 0.5"):
        saver.on_train_batch_end(1)
    assert (tmp_path / "checkpoint" / "state.npz").read_bytes() == kept


def test_a_validation_loss_that_is_no_number_stops_before_anything_is_kept(tmp_path: pathlib.Path) -> None:
    guard = StopAtNonFinite(Fit(str(tmp_path), _fitted(), Phase("all", 0, 1, 0.5), Progress(), 10))
    guard.on_train_batch_end(0, {"loss": 0.25})
    with pytest.raises(UserError, match="The validation loss became nan .* after a mean loss of 0.25"):
        guard.on_epoch_end(0, {"loss": 0.2, "val_loss": math.nan})


def test_float16_overflow_is_survived_or_said(images: pathlib.Path) -> None:
    """Keras scales the loss, and leaves out the steps whose gradients overflow."""
    wanted = config(images, "half", model="bn_mlp", precision="mixed_float16", deterministic=False)
    try:
        run = train(wanted, command="")
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert all(math.isfinite(float(row[name])) for row in run.history() for name in ("loss", "val_loss"))
    assert all(math.isfinite(value) for value in run.test_metrics().values())


def test_a_batch_that_misses_a_class() -> None:
    for classes in (2, 3):
        objective = Objective(make(("class",), tuple(map(str, range(classes))), {}))
        arguments = objective.compile_arguments()
        target = objective.targets(tf.zeros((4, 2, 2, 3)), tf.zeros((4,), tf.int64), {})
        loss = arguments["loss"](target, tf.zeros((4, 1 if classes == 2 else classes)))
        assert float(loss) == pytest.approx(math.log(classes))


def test_a_test_part_of_one_image_a_class(tmp_path: pathlib.Path) -> None:
    root = tmp_path / "photos"
    for name in ("lying", "upright"):
        (root / name).mkdir(parents=True)
        for i in range(4):
            (root / name / f"{i}.jpg").write_bytes(encode(stripes(i + 9 * len(name), upright=name == "upright")))
    shares = {"train_fraction": 0.5, "val_fraction": 0.25, "test_fraction": 0.25}
    run = train(config(root, "few", model="lenet5", deterministic=False, **shares), command="")
    assert len(run.split("test")) == 2
    assert run.test_metrics()["accuracy"] in (0.0, 0.5, 1.0)


def test_images_of_one_color_train_without_nonsense(tmp_path: pathlib.Path) -> None:
    """Nearly identical: each image one shade of gray, so that BatchNorm sees hardly any variance."""
    root = tmp_path / "photos"
    for label, name in enumerate(("dark", "light")):
        (root / name).mkdir(parents=True)
        for i in range(10):
            (root / name / f"{i}.png").write_bytes(encode(np.full((8, 8 + i, 3), 120 + label, np.uint8), "PNG"))
    run = train(config(root, "gray", model="bn_mlp", deterministic=False, image_size=8), command="")
    assert all(math.isfinite(float(value)) for row in run.history() for value in (row["loss"], row["val_loss"]))
    assert 0 <= run.test_metrics()["accuracy"] <= 1


def test_a_worse_epoch_after_a_resume_does_not_replace_a_better_model(tmp_path: pathlib.Path) -> None:
    """The model is saved more often than the checkpoint (keras#17012)."""
    model = _fitted()
    best_model.keep(str(tmp_path), model, 0.25)
    assert best_model.kept(str(tmp_path)).loss == 0.25
    assert best_model.kept(str(tmp_path / "nowhere")).loss == math.inf
    model.save(tmp_path / "model.keras")
    (tmp_path / "history.csv").write_text("epoch,val_loss\n1,0.5\n2,0.375\n3,0.75\n")
    assert best_model.kept(str(tmp_path)).loss == 0.375, "without the comment, what history.csv says"


def test_the_best_value_survives_a_resume_without_a_checkpoint(
    images: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = config(images, "best", model="lenet5", checkpoint_minutes=600.0, epochs=3, deterministic=False)

    class Killed(BaseException):
        pass

    with monkeypatch.context() as patch, pytest.raises(Killed):
        raise_at_epoch_end(patch, 3, Killed())
        train(wanted, command="")
    run_dir = wanted.run_dir or ""
    kept = best_model.kept(run_dir).loss
    # As if the epoch had been a lucky one, which another run of it does not reach again.
    best_model.keep(run_dir, Run.open(run_dir).load_model(), kept / 2)
    lucky = pathlib.Path(run_dir, "model.keras").read_bytes()
    run = train(dataclasses.replace(Run.open(run_dir).config, resume=True), command="")
    assert len(run.history()) == 3
    assert pathlib.Path(run_dir, "model.keras").read_bytes() == lucky
    assert json.loads(pathlib.Path(run_dir, "test.json").read_text())
