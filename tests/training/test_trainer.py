from __future__ import annotations

import dataclasses
import json
import os
import pathlib

import keras
import numpy as np
import pytest

import models
from data.batches import Batches
from errors import UserError
from training import best_model, initial_model
from training.config import TrainConfig
from training.phases import phases
from training.resolve import resolved
from training.run import Run
from training.trainer import train


def config(folder: pathlib.Path, **given: object) -> TrainConfig:
    standard = {"model": "lenet5", "data": str(folder), "epochs": 2, "batch_size": 8, "learning_rate": 1e-2}
    standard |= {"val_fraction": 0.2, "test_fraction": 0.2, "train_fraction": 0.6}
    merged = standard | {"run_dir": str(folder.parent / "run")} | given
    return resolved(TrainConfig(**merged))  # type: ignore[arg-type]


def pretrained(tmp_path: pathlib.Path, name: str, image_size: int) -> str:
    """A weights file of a network with random weights."""
    keras.utils.set_random_seed(1)
    path = str(tmp_path / "backbone.weights.h5")
    models.build(name, 2, image_size=image_size).save_weights(path)
    return path


def test_a_run_folder_holds_what_it_promises(image_folder: pathlib.Path) -> None:
    run = train(config(image_folder), command="python train.py")
    files = {
        ".lock",
        "config.json",
        "splits.csv",
        "history.csv",
        "curves.png",
        "model.keras",
        "labels.txt",
        "test.json",
        "checkpoint",
    }
    assert set(os.listdir(run.path)) == files
    assert [row.split for row in run.splits()].count("test") == 8
    assert run.class_names == ("lying", "upright")
    assert run.details()["parameters"] == run.load_model().count_params()
    history = run.history()
    assert [row["epoch"] for row in history] == ["1", "2"]
    assert {"phase", "learning_rate", "seconds", "loss", "accuracy", "val_loss", "val_accuracy"} <= set(history[0])


def test_the_kept_model_is_the_best_epoch_and_gives_the_stated_test_metrics(image_folder: pathlib.Path) -> None:
    run = train(config(image_folder, epochs=4), command="")
    best = min(run.history(), key=lambda row: float(row["val_loss"]))
    model = run.load_model()
    for split, wanted in (("val", float(best["val_accuracy"])), ("test", run.test_metrics()["accuracy"])):
        images = run.split(split)
        logits = np.concatenate([model(pixels) for pixels in images.pixels(3)])
        assert ((logits[:, 0] > 0) == (images.labels == 1)).mean() == pytest.approx(wanted, abs=1e-6)


def test_digits_are_learnt(tmp_path: pathlib.Path) -> None:
    """Between bounds: above what is learned without convolutions, below what only a leak would give."""
    run = train(config(tmp_path / "none", data="digits", epochs=5, learning_rate=1e-3), command="")
    assert 0.93 < run.test_metrics()["accuracy"] < 0.995


@pytest.mark.parametrize("name", ["bn_mlp", pytest.param("squeezenet", marks=pytest.mark.slow)])
def test_stripes_are_learnt(image_folder: pathlib.Path, name: str) -> None:
    """Which catches wrong targets, losses, and activations that no shape shows."""
    size = 48 if name == "squeezenet" else None
    rate = 1e-3 if name == "squeezenet" else 3e-3
    settings = {"model": name, "image_size": size, "epochs": 15, "learning_rate": rate, "weights": "none"}
    run = train(config(image_folder, **settings), command="")
    assert run.test_metrics()["accuracy"] == 1.0


def test_training_again_gives_the_same_numbers(image_folder: pathlib.Path) -> None:
    runs = [
        train(config(image_folder, run_dir=str(image_folder.parent / name), augment="full"), command="")
        for name in ("a", "b")
    ]
    first, second = ([float(row["loss"]) for row in run.history()] for run in runs)
    np.testing.assert_allclose(first, second, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "augment"),
    [
        ("bn_mlp", "none"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [("lenet5", "full"), ("multitask", "none")]),
    ],
)
def test_nothing_is_traced_again_after_the_first_epoch(
    image_folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str, augment: str
) -> None:
    """Seven images per step leave three of 24 for the last one, whose shape is its own."""
    traced: list[keras.Model] = []
    for step in ("train_step", "test_step"):
        own = getattr(keras.Model, step)
        monkeypatch.setattr(keras.Model, step, lambda model, data, own=own: traced.append(model) or own(model, data))
    counts = []
    for epochs in (1, 4):
        traced.clear()
        given = {"model": name, "image_size": 16, "augment": augment, "batch_size": 7, "epochs": epochs}
        train(config(image_folder, run_dir=str(image_folder.parent / str(epochs)), **given), command="")
        counts.append(len(traced))
    assert counts[0] == counts[1] >= 2


def head_losses(run: Run, split: str) -> dict[str, float]:
    """Loss and metrics of both heads of the kept model over all images of a split, by their definitions."""
    images, model = run.split(split), run.load_model()
    pixels = np.concatenate(list(images.pixels(5)))
    outputs = {name: value.numpy()[:, 0].astype(np.float64) for name, value in model(pixels).items()}
    signs = np.where(images.labels == 1, 1, -1)
    found = {"class_loss": np.log1p(np.exp(-signs * outputs["class"])).mean()}
    errors = outputs["brightness"] - pixels.mean(axis=(1, 2, 3)) / 255
    found |= {"brightness_loss": (errors**2).mean(), "brightness_mae": np.abs(errors).mean()}
    return found | {"loss": 0.7 * found["class_loss"] + 0.3 * found["brightness_loss"]}


def test_two_heads_count_every_image_once(image_folder: pathlib.Path) -> None:
    """24 images to train on in steps of 7, 8 for validation and test: the last batch is smaller in each. So small a
    learning rate changes no weight, so that an epoch's metrics are those of one model.
    """
    given = {"model": "multitask", "image_size": 16, "epochs": 1, "learning_rate": 1e-12, "batch_size": 7}
    run = train(config(image_folder, **given), command="")
    (row,) = run.history()
    assert run.test_metrics() | head_losses(run, "test") == pytest.approx(run.test_metrics(), rel=1e-5)
    for split, prefix in (("train", ""), ("val", "val_")):
        for name, value in head_losses(run, split).items():
            assert float(row[prefix + name]) == pytest.approx(value, rel=1e-5, abs=2e-6), (split, name)


def test_a_frozen_backbone_with_dropout_keeps_its_weights_under_augmentation_and_plain_keras_opens_the_model(
    image_folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    small = dataclasses.replace(models.find("alexnet_owt"), builder="tests.training.small_networks:alexnet_owt")
    monkeypatch.setitem(models.REGISTRY, "alexnet_owt", small)
    settings = {"model": "alexnet_owt", "image_size": 64, "freeze": True, "augment": "basic", "learning_rate": 1e-3}
    settings["weights"] = pretrained(tmp_path, "alexnet_owt", 64)
    run = train(config(image_folder, **settings), command="")

    before = models.build("alexnet_owt", 2, image_size=64)
    before.load_weights(settings["weights"])
    model = keras.models.load_model(run.file("model.keras"))
    for part, same in (("backbone", True), ("head", False)):
        pairs = zip(before.get_layer(part).get_weights(), model.get_layer(part).get_weights(), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs) is same, part
    assert [row["phase"] for row in run.history()] == ["head", "head"]


@pytest.mark.parametrize(
    ("augment", "views"),
    [("full", 2), *(pytest.param(augment, 0, marks=pytest.mark.slow) for augment in ("none", "basic"))],
)
def test_transfer_in_two_phases(image_folder: pathlib.Path, augment: str, views: int) -> None:
    weights = pretrained(image_folder.parent, "squeezenet", 48)
    settings = {"model": "squeezenet", "image_size": 48, "weights": weights, "freeze": True, "epochs": 2}
    settings["augmented_views"] = views
    given = config(image_folder, **settings, fine_tune_epochs=1, learning_rate=1e-3, augment=augment)
    run = train(given, command="")
    assert [row["phase"] for row in run.history()] == ["head", "head", "fine_tune"]
    assert [phase.name for phase in phases(given)] == ["head", "fine_tune"]


def test_a_second_run_in_the_same_folder_is_refused(image_folder: pathlib.Path) -> None:
    train(config(image_folder, epochs=1), command="")
    with pytest.raises(UserError, match="holds a run already"):
        train(config(image_folder, epochs=1), command="")


def test_mistakes_are_found_before_a_folder_is_made(image_folder: pathlib.Path) -> None:
    (image_folder / "lying" / "notes.jpg").write_text("not an image")
    with pytest.raises(UserError, match=r"(?s)1 of 41 can't be used.*lying/notes.jpg: not an image.*on_bad_image=skip"):
        train(config(image_folder), command="")
    assert not (image_folder.parent / "run").exists()
    run = train(config(image_folder, on_bad_image="skip", epochs=1), command="")
    assert run.details()["skipped_images"] == [{"address": "lying/notes.jpg", "reason": "not an image"}]
    assert "lying/notes.jpg" not in [row.address for row in run.splits()]


def test_early_stopping_ends_a_phase_and_says_so(image_folder: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    """A learning rate that can't learn: the first epoch stays the best or nearly so."""
    run = train(config(image_folder, epochs=30, early_stopping=2, learning_rate=2.0), command="")
    losses = [float(row["val_loss"]) for row in run.history()]
    assert len(losses) < 30
    assert min(losses[-2:]) >= min(losses[:-2])
    lowest = f"{min(losses):.4f}"
    printed = capsys.readouterr().out
    assert f"Early stopping after epoch {len(losses)} of 30: 2 in a row had no " in printed
    kept = 1 + losses.index(min(losses))
    assert f"Kept: epoch {kept} of {len(losses)}, which has the lowest validation loss, {lowest}." in printed
    assert best_model.kept(run.path) == best_model.Kept(pytest.approx(min(losses), abs=1e-6), kept)  # type: ignore[arg-type]


def test_an_undisturbed_end_is_no_early_stopping(image_folder: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    train(config(image_folder, epochs=1, early_stopping=2), command="")
    printed = capsys.readouterr().out
    assert "Early stopping" not in printed and "Kept: epoch 1 of 1, " in printed


def test_the_history_holds_the_learning_rate_of_each_epochs_last_step(image_folder: pathlib.Path) -> None:
    """24 images in steps of 8: the last of three steps in each of two epochs."""
    run = train(config(image_folder, learning_rate_schedule="cosine"), command="")
    wanted = [5e-3 * (1 + np.cos(np.pi * step / 6)) for step in (2, 5)]
    assert [float(row["learning_rate"]) for row in run.history()] == pytest.approx(wanted, rel=1e-5)


def test_fine_tuning_begins_from_the_best_epoch_of_the_head(image_folder: pathlib.Path) -> None:
    """Of a head whose learning rate is too high, the last epoch is not the best; then nothing changes any more."""
    weights = pretrained(image_folder.parent, "lenet5", 32)
    given = {"weights": weights, "freeze": True, "epochs": 6, "learning_rate": 1.0, "deterministic": True}
    run = train(config(image_folder, **given, fine_tune_epochs=1, fine_tune_learning_rate=1e-12), command="")
    *head, tuned = [float(row["val_loss"]) for row in run.history()]
    assert min(head) < head[-1]
    assert tuned == pytest.approx(min(head), rel=1e-5)


class TestWeightsOfARun:
    """Training on from a run's model.keras in a new run."""

    def before(self, folder: pathlib.Path, **given: object) -> Run:
        return train(config(folder, run_dir=str(folder.parent / "before"), **given), command="")

    def after(self, folder: pathlib.Path, before: Run, **given: object) -> Run:
        weights = before.file("model.keras")
        return train(config(folder, run_dir=str(folder.parent / "after"), weights=weights, **given), command="")

    @pytest.mark.parametrize("given", [{}, {"model": "squeezenet", "image_size": 48, "learning_rate": 1e-3}])
    def test_the_head_is_kept_where_the_classes_are_the_same(
        self, image_folder: pathlib.Path, capsys: pytest.CaptureFixture, given: dict
    ) -> None:
        """SqueezeNet's head for transfer is another than that from scratch."""
        before = self.before(image_folder, weights="none", **given)
        after = self.after(image_folder, before, **given | {"learning_rate": 1e-12, "epochs": 1})
        assert after.test_metrics() == pytest.approx(before.test_metrics(), rel=1e-4)
        assert f"Head: kept from {before.file('model.keras')}, whose 2 classes are the same." in capsys.readouterr().out

    def test_a_kept_head_is_trained_by_freeze(self, image_folder: pathlib.Path) -> None:
        before = self.before(image_folder, weights="none")
        after = self.after(image_folder, before, freeze=True, epochs=1)
        for part, is_same in (("backbone", True), ("head", False)):
            weights = [run.load_model().get_layer(part).get_weights() for run in (before, after)]
            assert all(np.array_equal(a, b) for a, b in zip(*weights, strict=True)) == is_same
        first, kept = after.history()[0], min(before.history(), key=lambda row: float(row["val_loss"]))
        assert float(first["loss"]) < 1.5 * float(kept["loss"]) + 0.1, "of random weights it is above 0.6"

    def test_the_head_is_new_where_the_classes_are_others(
        self, image_folder: pathlib.Path, capsys: pytest.CaptureFixture
    ) -> None:
        before = self.before(image_folder, weights="none")
        (image_folder / "lying").rename(image_folder / "flat")
        self.after(image_folder, before, epochs=1)
        path = before.file("model.keras")
        assert f"Head: new, since the head in {path} is for other classes: lying, upright." in capsys.readouterr().out
        pathlib.Path(before.path, "labels.txt").write_text("flat\nupright\n")
        with pytest.raises(UserError, match="labels.txt"):
            initial_model.class_names_of(path)
        pathlib.Path(before.path, "config.json").unlink()
        assert initial_model.class_names_of(path) is None

    def test_the_default_learning_rate_is_that_of_fine_tuning(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "model.keras").write_bytes(b"")
        given = resolved(TrainConfig(model="lenet5", weights=str(tmp_path / "model.keras")))
        assert given.learning_rate == 1e-5


def test_a_run_says_when_its_images_are_gone(image_folder: pathlib.Path) -> None:
    run = train(config(image_folder, epochs=1), command="")
    gone = next(row.address for row in run.splits() if row.split == "test")
    (image_folder / gone).unlink()
    with pytest.raises(UserError, match=f"1 of 8 images of the test split are missing: {gone}"):
        Run.open(run.path).split("test")


def test_mixed_precision_trains_and_keeps_float32_logits(image_folder: pathlib.Path) -> None:
    try:
        run = train(config(image_folder, precision="mixed_bfloat16", epochs=1), command="")
        assert run.load_model().output.dtype == "float32"
    finally:
        keras.mixed_precision.set_global_policy("float32")


def test_config_json_repeats_the_run(image_folder: pathlib.Path) -> None:
    given = config(image_folder, epochs=1)
    run = train(given, command="python train.py --epochs=1")
    assert Run.open(run.path).config == given
    stored = json.loads((pathlib.Path(run.path) / "config.json").read_text(encoding="utf-8"))
    assert stored["command"] == "python train.py --epochs=1"
    assert stored["devices"] and stored["versions"]["keras"] == keras.__version__


def test_require_gpu_fails_without_one(image_folder: pathlib.Path) -> None:
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="`require_gpu` needs a GPU"):
        train(config(image_folder, require_gpu=True), command="")


def test_validation_batches_are_those_of_evaluation(image_folder: pathlib.Path) -> None:
    run = train(config(image_folder, epochs=1, augment="full"), command="")
    images = run.split("val")
    batches = Batches(images.dataset, image_size=32, channels=1, batch_size=8)
    wanted = np.concatenate([pixels for pixels, _ in batches.evaluation()])
    np.testing.assert_array_equal(np.concatenate(list(images.pixels(3))), wanted)


def test_tensorboard_logs_lie_in_the_run_folder(image_folder: pathlib.Path) -> None:
    pytest.importorskip("tensorboard")
    run = train(config(image_folder, epochs=1, tensorboard=True), command="")
    assert list(pathlib.Path(run.path, "tensorboard", "all").glob("*/events.out.*"))
