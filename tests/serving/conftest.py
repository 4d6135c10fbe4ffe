"""Tiny models, exported once for all tests of serving, and a run folder as train.py leaves it."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator

import keras
import numpy as np
import pytest
import tensorflow as tf

import models
from data import load
from serving import export
from serving.publish import publish
from serving.wire import Metadata
from tests.conftest import encode, stripes
from tests.serving import stand_in
from training import run_files
from training.config import CONFIG, TrainConfig
from training.resolve import resolved
from training.run import Run

SIZE = 16
CLASSES = ("lying", "upright")


def tiny_model(num_logits: int = 1, *, two_heads: bool = False, channels: int = 3) -> keras.Model:
    """Has everything that must be switched off when serving: augmentation, dropout, batch statistics."""
    keras.utils.set_random_seed(7)
    pixels = keras.Input((SIZE, SIZE, channels), name="pixels")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="preprocessing")(pixels)
    inside = keras.Input((SIZE, SIZE, channels))
    y = keras.layers.RandomFlip("horizontal")(inside)
    y = keras.layers.Conv2D(8, 3, strides=2)(y)
    y = keras.layers.BatchNormalization(
        moving_mean_initializer=keras.initializers.RandomNormal(seed=1), gamma_initializer="random_uniform"
    )(y)
    y = keras.layers.Dropout(0.5)(keras.layers.Flatten()(y))
    x = keras.Model(inside, y, name="backbone")(x)
    logits = keras.layers.Dense(num_logits, name="head", kernel_initializer=keras.initializers.RandomNormal(0, 0.3))(x)
    if two_heads:
        brightness = keras.layers.Dense(1, activation="sigmoid")(x)
        return keras.Model(pixels, {"class": logits, "brightness": brightness})
    return keras.Model(pixels, logits)


def about(class_names: tuple[str, ...] = CLASSES, **changes: object) -> Metadata:
    return dataclasses.replace(Metadata("tiny", class_names, SIZE, run="a-run", details={"seed": 0}), **changes)


@pytest.fixture(scope="session")
def model() -> keras.Model:
    return tiny_model()


@pytest.fixture(scope="session")
def published(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with version 1 of the two-class model."""
    base = tmp_path_factory.mktemp("export")
    publish(lambda folder: export.save(model, folder, about()), str(base))
    return base


@pytest.fixture(scope="session")
def served(published: pathlib.Path) -> stand_in.Served:
    return stand_in.load(str(published))


@pytest.fixture(scope="session")
def addresses(served: stand_in.Served) -> Iterator[tuple[str, str]]:
    """The stand-in's addresses for gRPC and HTTP."""
    with stand_in.running(served) as found:
        yield found


@pytest.fixture(scope="session")
def images() -> list[bytes]:
    """Files in every format that is served, of several sizes."""
    jpegs = [encode(stripes(i, upright=i % 2 == 0, size=(20 + 9 * i, 31))) for i in range(5)]
    pixels = stripes(9, upright=True)
    with_alpha = np.concatenate([pixels, pixels[..., :1]], axis=-1)
    sixteen_bit = tf.io.encode_png(tf.cast(pixels, tf.uint16) * 257).numpy()
    others = [encode(pixels, form) for form in ("PNG", "GIF", "BMP")]
    return [*jpegs, *others, encode(pixels[..., 0]), encode(with_alpha, "PNG"), sixteen_bit]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run folder of LeNet-5 on the digits; the weights are random, which serving doesn't mind."""
    path = tmp_path_factory.mktemp("runs") / "lenet5-digits"
    path.mkdir()
    keras.utils.set_random_seed(3)
    config = resolved(TrainConfig(model="lenet5", data="digits", weights="none", run_dir=str(path)))
    flags = dataclasses.asdict(config)
    run_files.write_json(
        str(path / CONFIG), {"flags": flags, "versions": {"keras": "3"}, "git_commit": "abc", "seed": 0}
    )
    dataset = load("digits")
    (path / run_files.LABELS).write_text("".join(f"{name}\n" for name in dataset.class_names))
    splits = ["test" if i % 30 == 0 else "train" for i in range(len(dataset))]
    run_files.write_splits(str(path), dataclasses.replace(dataset, digests=("",) * len(dataset)), splits)
    models.build("lenet5", 10).save(path / run_files.MODEL)
    return Run.open(str(path))
