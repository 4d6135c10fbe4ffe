from __future__ import annotations

import io
import math
import pathlib
import zipfile

import keras
import numpy as np
import pytest

import models
from errors import UserError
from training import checkpoint
from training.checkpoint import NotFiniteError, Progress
from training.heads import Objective, make


def fitted(name: str, heads: tuple[str, ...] = ("class",), steps: int = 3) -> keras.Model:
    """A small network after some steps, in the middle of an epoch as far as its metrics know."""
    keras.utils.set_random_seed(3)
    model = models.build(name, 2, image_size=32 if name == "squeezenet" else 8)
    shares = {"class": 0.7, "brightness": 0.3}
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3), **Objective(make(heads, ("a", "b"), shares)).compile_arguments()
    )
    generator = np.random.default_rng(0)
    for _ in range(steps):
        pixels = generator.integers(0, 256, (4, *model.get_layer("backbone").input_shape[1:])).astype(np.float32)
        target = generator.integers(0, 2, (4, 1)).astype(np.float32)
        model.train_on_batch(pixels, target if len(heads) == 1 else {"class": target, "brightness": target})
    return model


@pytest.fixture(scope="module")
def small() -> keras.Model:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(loss="mse")
    model.fit(np.zeros((2, 2)), np.zeros((2, 1)), verbose=0)
    return model


def state(model: keras.Model) -> list[np.ndarray]:
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return [np.asarray(variable) for variable in variables]


@pytest.mark.parametrize(
    ("name", "heads"),
    [("squeezenet", ("class",)), ("bn_mlp", ("class",)), ("multitask", ("class", "brightness"))],
    ids=["dropout", "BatchNorm", "two heads"],
)
def test_every_variable_comes_back(name: str, heads: tuple[str, ...], tmp_path: pathlib.Path) -> None:
    model = fitted(name, heads)
    expected = state(model)
    if name == "squeezenet":
        assert any("seed_generator_state" in variable.path for variable in model.variables), "dropout's own state"
    checkpoint.save(str(tmp_path), Progress(epoch=2, step=3), model, model)
    other = fitted(name, heads, steps=1)
    checkpoint.restore(str(tmp_path), other, other)
    for restored, saved in zip(state(other), expected, strict=True):
        np.testing.assert_array_equal(restored, saved, strict=True)


def test_the_network_alone_can_be_restored(tmp_path: pathlib.Path) -> None:
    """For the phase that follows the one in which the checkpoint was taken."""
    model = fitted("bn_mlp", steps=1)
    checkpoint.save(str(tmp_path), Progress(), model, model)
    other = models.build("bn_mlp", 2, image_size=8)
    checkpoint.restore(str(tmp_path), other)
    for restored, saved in zip(other.variables, model.variables, strict=True):
        np.testing.assert_array_equal(np.asarray(restored), np.asarray(saved))


def test_progress_comes_back_infinities_too(small: keras.Model, tmp_path: pathlib.Path) -> None:
    history = [{"epoch": 1, "phase": "head", "loss": 0.1 + 0.2}]
    progress = Progress(1, 4, 7, 12.5, history, 0.125, 3, math.inf, True)
    checkpoint.save(str(tmp_path), progress, small, small)
    assert checkpoint.read_progress(str(tmp_path)) == progress
    assert checkpoint.read_progress(str(tmp_path / "nowhere")) is None


def test_another_network_is_refused_and_nothing_changes(small: keras.Model, tmp_path: pathlib.Path) -> None:
    checkpoint.save(str(tmp_path), Progress(), small, small)
    other = fitted("plain_mlp", steps=1)
    before = state(other)
    with pytest.raises(UserError, match="is of another network: .* doesn't fit"):
        checkpoint.restore(str(tmp_path), other, other)
    for now, then in zip(state(other), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "pickle"])
def test_a_damaged_checkpoint_is_said(small: keras.Model, tmp_path: pathlib.Path, damage: str) -> None:
    checkpoint.save(str(tmp_path), Progress(), small, small)
    file = tmp_path / "checkpoint" / "state.npz"
    content = bytearray(file.read_bytes())
    if damage == "pickle":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("progress.npy", _pickled())
    else:
        content[content.index(b"NUMPY") + 300] ^= 0xFF  # Behind the header, so in the numbers themselves.
        file.write_bytes({"cut": content[: len(content) // 2], "flipped": content, "empty": b""}[damage])
    with pytest.raises(UserError, match="state.npz is damaged. Start again"):
        checkpoint.read_progress(str(tmp_path))


def _pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray([{"code": "here"}], dtype=object), allow_pickle=True)
    return file.getvalue()


def test_weights_that_are_no_numbers_are_not_written(small: keras.Model, tmp_path: pathlib.Path) -> None:
    checkpoint.save(str(tmp_path), Progress(epoch=1), small, small)
    variable = small.trainable_variables[0]
    good = variable.numpy()
    variable.assign(np.full(variable.shape, np.inf))
    with pytest.raises(NotFiniteError):
        checkpoint.save(str(tmp_path), Progress(epoch=2), small, small)
    variable.assign(good)
    kept = checkpoint.read_progress(str(tmp_path))
    assert kept and kept.epoch == 1
