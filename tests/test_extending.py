"""Runs the code of docs/extending.md: what it adds is added here at run time, in one place, and works everywhere."""

from __future__ import annotations

import pathlib
import re
import sys
import types
from collections.abc import Iterator

import numpy as np
import pytest

import data
import models
from data.batches import Batches
from training.config import TrainConfig
from training.resolve import resolved
from training.trainer import train

PAGE = (pathlib.Path(__file__).resolve().parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
SHARES = {"train_fraction": 0.6, "val_fraction": 0.2, "test_fraction": 0.2}


def blocks(title: str) -> list[str]:
    """The code of one section."""
    section = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """Makes a module of a block that begins with its path."""

    def make(code: str) -> types.ModuleType:
        path = re.match(r"# (\S+)\.py\n", code)[1]  # type: ignore[index]
        module = types.ModuleType(path.replace("/", "."))
        exec(compile(code, f"{path}.py", "exec"), module.__dict__)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return module

    yield make


@pytest.fixture
def pixels(image_folder: pathlib.Path) -> np.ndarray:
    """The images of two classes, 20 of each."""
    (batch,) = Batches(data.load(str(image_folder)), image_size=32, batch_size=40).evaluation()
    return batch[0].numpy()


def test_a_model(add, monkeypatch: pytest.MonkeyPatch, image_folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    code, row = blocks("A model")
    add(code)
    rows = eval(f"{{{row}}}", {"ModelSpec": models.ModelSpec})
    for name, spec in rows.items():
        monkeypatch.setitem(models.REGISTRY, name, spec)
    assert models.build("tiny", 10).count_params() == rows["tiny"].parameters
    given = {"model": "tiny", "data": str(image_folder), "epochs": 8, "batch_size": 4, "learning_rate": 0.01, **SHARES}
    run = train(resolved(TrainConfig(run_dir=str(tmp_path / "run"), **given)), "")  # type: ignore[arg-type]
    losses = [float(row["loss"]) for row in run.history()]
    assert losses[-1] < 0.7 * losses[0]
    again = {**given, "weights": run.file("model.keras"), "freeze": True, "epochs": 1}
    frozen = train(resolved(TrainConfig(run_dir=str(tmp_path / "frozen"), **again)), "")  # type: ignore[arg-type]
    for before, after in zip(run.load_model().weights[:4], frozen.load_model().weights[:4], strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_data_source(add, monkeypatch: pytest.MonkeyPatch, pixels: np.ndarray, tmp_path: pathlib.Path) -> None:
    code, line = blocks("A data source")
    add(code)
    names: dict = {}
    exec(line, names)
    assert names["SOURCES"][1:] == data.SOURCES
    monkeypatch.setattr(data, "SOURCES", names["SOURCES"])
    path = str(tmp_path / "pixels.npz")
    np.savez(path, images=pixels, labels=np.repeat([0, 1], 20), class_names=["lying", "upright"])
    given = {"model": "lenet5", "data": path, "epochs": 1, "run_dir": str(tmp_path / "run"), **SHARES}
    run = train(resolved(TrainConfig(**given)), "")  # type: ignore[arg-type]
    assert run.class_names == ("lying", "upright") and len(run.splits()) == 40
    split = run.split("test")
    (shown,) = split.pixels()
    gray = Batches(data.load(path), image_size=32, channels=1, batch_size=40)
    (everything,) = gray.evaluation()
    places = [int(address.rpartition("/")[2]) for address in split.addresses]
    np.testing.assert_array_equal(shown, everything[0].numpy()[places])


def test_an_augmentation(add, monkeypatch: pytest.MonkeyPatch, image_folder: pathlib.Path, tmp_path) -> None:
    code, line = blocks("An augmentation")
    add(code)
    (added,) = re.findall(r'"(\w+)": "([\w.]+:\w+)"', line)
    monkeypatch.setitem(data.AUGMENTATIONS, *added)
    batches = Batches(data.load(str(image_folder)), image_size=24, batch_size=8, augment="old")
    first, again = (next(iter(batches.training(2, 3)))[0].numpy() for _ in range(2))
    np.testing.assert_array_equal(first, again)
    plain = next(iter(Batches(batches.dataset, image_size=24, batch_size=8).training(2, 3)))[0].numpy()
    assert np.abs(first - plain).mean() > 5
    given = {"model": "lenet5", "data": str(image_folder), "epochs": 2, "augment": "old", **SHARES}
    run = train(resolved(TrainConfig(run_dir=str(tmp_path / "run"), **given)), "")  # type: ignore[arg-type]
    assert run.config.augment == "old" and len(run.history()) == 2


def test_every_section_is_executed() -> None:
    titles = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    assert titles == ["A model", "A data source", "An augmentation", "A head"]
