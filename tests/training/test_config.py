from __future__ import annotations

import dataclasses
import pathlib
import subprocess
import sys

import pytest
from absl import flags as absl_flags

import models
from errors import UserError
from training import flags as training_flags
from training.config import TrainConfig
from training.resolve import resolved

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"model": "resnet50", "freeze": True}, {"weights": "imagenet", "learning_rate": 1e-3, "image_size": 224}),
        ({"model": "resnet50"}, {"weights": "imagenet", "learning_rate": 1e-5}),
        ({"model": "resnet50", "weights": "none"}, {"weights": "none", "learning_rate": 1e-4}),
        ({"model": "lenet5"}, {"weights": "none", "learning_rate": 1e-4, "image_size": 32}),
        ({"model": "lenet5", "learning_rate": 0.5, "image_size": 40}, {"learning_rate": 0.5, "image_size": 40}),
    ],
)
def test_defaults_follow_the_course(given: dict, wanted: dict) -> None:
    config = resolved(TrainConfig(**given))
    assert {name: getattr(config, name) for name in wanted} == wanted
    assert (config.epochs, config.batch_size, config.early_stopping, config.fine_tune_learning_rate) == (
        10,
        32,
        0,
        1e-5,
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "resnet5"}, "--model must be one of"),
        ({"epochs": 0}, "--epochs must be at least 1 .* Received: --epochs=0"),
        ({"batch_size": -1}, "--batch_size must be at least 1"),
        ({"learning_rate": 0.0}, "--learning_rate must be above 0"),
        ({"learning_rate": float("nan")}, "--learning_rate must be above 0"),
        ({"train_fraction": 0.9}, r"add up to at most 1. Received: 0.9 \+ 0.1 \+ 0.1 = 1.1"),
        ({"test_fraction": 0.0}, "--test_fraction must be above 0"),
        ({"model": "lenet5", "weights": "imagenet"}, "published weights: .*vgg16"),
        ({"weights": "missing.h5"}, "no such file"),
        ({"model": "lenet5", "freeze": True}, "--freeze trains a new head"),
        ({"freeze": True, "augmented_views": 3}, "--augment=basic or full"),
        ({"fine_tune_epochs": 2}, "second phase after --freeze"),
        ({"model": "multitask", "loss_weights": "class=1"}, "--loss_weights must be class=WEIGHT,brightness=WEIGHT"),
        ({"loss_weights": "class:0.7"}, "NAME=WEIGHT pairs"),
        ({"loss_weights": "class=-1,brightness=1"}, "weights of 0 or more"),
        ({"resume": True}, "--run_dir=FOLDER"),
        ({"augment": "lots"}, "--augment must be one of none, basic, full"),
    ],
)
def test_contradictions_are_refused_with_the_flag_and_the_value(given: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolved(TrainConfig(**given))


def test_every_field_is_a_flag_with_help_and_the_same_default() -> None:
    values = absl_flags.FlagValues()
    training_flags.define(values)
    values(["train.py"])
    assert training_flags.read(values) == TrainConfig()
    fields = dataclasses.fields(TrainConfig)
    assert len(fields) <= 32
    for item in fields:
        assert len(item.metadata["help"]) > 15
        assert item.metadata["help"].endswith(".")


def test_flags_keep_their_types() -> None:
    values = absl_flags.FlagValues()
    training_flags.define(values)
    values(["train.py", "--model=vgg16", "--freeze", "--learning_rate=1e-2", "--image_size=64", "--data=photos"])
    config = training_flags.read(values)
    assert (config.model, config.freeze, config.learning_rate, config.image_size) == ("vgg16", True, 1e-2, 64)
    assert set(training_flags.given(values)) == {"model", "freeze", "learning_rate", "image_size", "data"}


@pytest.mark.parametrize("arguments", [["--help"], ["--model=resnet5"], ["--freeze", "--weights=none"]])
def test_the_command_line_answers_without_importing_tensorflow(arguments: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", str(ROOT / "train.py"), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    imported = {
        line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines() if line.startswith("import time")
    }
    assert "training.config" in imported
    assert not imported & {"tensorflow", "keras", "numpy", "matplotlib", "sklearn"}
    assert result.returncode == (0 if arguments == ["--help"] else 2)
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.flags")), ids=lambda path: path.stem)
def test_recipes_are_legal(recipe: pathlib.Path, tmp_path: pathlib.Path) -> None:
    lines = [line for line in recipe.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    values = absl_flags.FlagValues()
    training_flags.define(values)
    values(["train.py", *lines])
    config = training_flags.read(values)
    if config.weights and config.weights.endswith(".h5"):
        weights = tmp_path / "weights.h5"
        weights.write_bytes(b"")
        config = dataclasses.replace(config, weights=str(weights))
    assert resolved(config).model in models.REGISTRY


def test_every_model_has_a_recipe() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "recipes").glob("*.flags"))
    assert [name for name in models.REGISTRY if f"--model={name}\n" not in text] == []


def test_loss_weights_are_the_models_own_unless_given() -> None:
    assert resolved(TrainConfig(model="multitask")).loss_weights == "class=0.7,brightness=0.3"
    assert resolved(TrainConfig(model="multitask")).parsed_loss_weights == {"class": 0.7, "brightness": 0.3}
    given = resolved(TrainConfig(model="multitask", loss_weights="class=1,brightness=0"))
    assert given.parsed_loss_weights == {"class": 1.0, "brightness": 0.0}
    assert resolved(TrainConfig(model="lenet5")).loss_weights is None
    with pytest.raises(UserError, match="NAME=WEIGHT pairs.* such as class=0.7,brightness=0.3"):
        resolved(TrainConfig(model="lenet5", loss_weights=""))
