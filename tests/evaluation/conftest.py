"""One small trained run that all tests of the evaluation share; none of them writes into it."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from evaluation.assessment import Assessment, assess
from evaluation.predictions import from_model
from evaluation.subject import own_test_split
from tests.conftest import encode
from training.config import TrainConfig
from training.resolve import resolved
from training.run import Run
from training.trainer import train

CLASSES = ("lying", "upright")


def bar(seed: int, upright: bool) -> np.ndarray:
    """A noisy image of a bright bar, 40 px high and 48 wide."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:40, :48]
    across = columns / 48 if upright else rows / 40
    bright = np.abs(across - generator.uniform(0.3, 0.7)) < 0.15
    pixels = 60 + 130 * bright[..., np.newaxis] + generator.normal(0, 55, (40, 48, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def write_images(folder: pathlib.Path, count: int, first: int = 0) -> None:
    """`count` images of each class."""
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for i in range(first, first + count):
            image = encode(bar(i + 1000 * number, upright=name == "upright"), "PNG")
            (folder / name / f"{i:02d}.png").write_bytes(image)


def train_run(photos: pathlib.Path, folder: pathlib.Path, **given: object) -> Run:
    """A LeNet-5 that has learned the bars, or not, within seconds."""
    flags = {"model": "lenet5", "image_size": 16, "epochs": 6, "learning_rate": 3e-3, "batch_size": 8}
    shares = {"train_fraction": 0.5, "val_fraction": 0.2, "test_fraction": 0.3}
    config = TrainConfig(data=str(photos), run_dir=str(folder), **{**flags, **shares, **given})  # type: ignore[arg-type]
    return train(resolved(config), command="python train.py --model=lenet5")


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """LeNet-5 at 16 px on 2 x 40 images of bars, 24 of them for the test."""
    folder = tmp_path_factory.mktemp("evaluation")
    write_images(folder / "photos", 40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        return train_run(folder / "photos", folder / "bars", augment="basic")


@pytest.fixture(scope="session")
def assessment(run: Run) -> Assessment:
    """The run evaluated on its own test split."""
    return assess(own_test_split(run, "model.keras"), from_model(run.load_model(), run.heads), batch_size=5)
