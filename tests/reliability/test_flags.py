"""Any combination of flags either trains or is refused with a message that names a flag; nothing in between."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import random
import re
import string
import subprocess
import sys
from typing import Any

import hypothesis
import pytest
from absl import flags
from hypothesis import strategies as st

import models
from errors import UserError
from training import flags as training_flags
from training.config import TrainConfig
from training.resolve import resolved

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIELDS = {item.name: item for item in dataclasses.fields(TrainConfig)}

ODD_FLOATS = st.one_of(st.floats(), st.sampled_from([0.0, -0.0, 1e-12, 0.1, 0.3, 0.5, 0.8, 1.0, 1e300]))
ODD_INTS = st.one_of(st.integers(-2, 3), st.integers(-(2**70), 2**70), st.sampled_from([8, 16, 32, 224, 65536]))
ODD_TEXT = st.one_of(st.text(max_size=12), st.sampled_from(["", " ", "a=1", "class=0.7,brightness=0.3", "class=nan"]))


def values_of(name: str) -> st.SearchStrategy:
    item = FIELDS[name]
    if item.metadata["choices"]:
        return st.one_of(st.sampled_from(list(item.metadata["choices"])), st.text(max_size=5))
    kind = str(item.type)
    plain = {"bool": st.booleans(), "int": ODD_INTS, "float": ODD_FLOATS, "str": ODD_TEXT}[kind.split(" ")[0]]
    return st.one_of(st.none(), plain) if "None" in kind else plain


@hypothesis.settings(max_examples=600, deadline=None)
@hypothesis.given(st.fixed_dictionaries({}, optional={name: values_of(name) for name in FIELDS}))
@hypothesis.example({"data": "\0"})
def test_a_configuration_is_complete_or_refused_by_name(given: dict[str, Any]) -> None:
    try:
        config = resolved(TrainConfig(**given))
    except UserError as error:
        assert any(f"--{name}" in str(error) for name in FIELDS), error
        assert re.search("Received|Pass|Install", str(error)), error
        return
    assert config.learning_rate and config.learning_rate > 0
    assert config.image_size and config.image_size >= models.find(config.model).min_image_size
    assert config.weights is not None
    assert config.train_fraction + config.val_fraction + config.test_fraction <= 1 + 1e-9
    assert resolved(config) == config, "what is complete stays as it is"


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(
    st.lists(
        st.one_of(
            st.text(max_size=20), st.builds("--{}={}".format, st.sampled_from(list(FIELDS)), st.text(max_size=8))
        ),
        max_size=6,
    )
)
def test_a_command_line_is_read_or_refused(arguments: list[str]) -> None:
    values = flags.FlagValues()
    training_flags.define(values)
    try:
        values(["train.py", *arguments])
    except (flags.Error, UnicodeEncodeError):
        return
    assert isinstance(training_flags.read(values), TrainConfig)


def test_every_flag_says_what_it_takes() -> None:
    for name, item in FIELDS.items():
        text = item.metadata["help"]
        assert text[0] in string.ascii_uppercase and text.endswith("."), name
    assert len(FIELDS) <= 31, "about thirty is the most that anybody reads"


def _command(generator: random.Random, images: pathlib.Path, place: pathlib.Path) -> list[str]:
    """Mostly right, now and then wrong: so that some train and others are refused at different depths."""
    some: dict[str, list[str]] = {
        "model": ["lenet5", "bn_mlp", "plain_mlp", "multitask", "resnet5"],
        "data": [str(images)] * 6 + ["nowhere", "no/where", "digits.csv"],
        "image_size": ["8", "16", "32", "5"],
        "epochs": ["1", "1", "0"],
        "batch_size": ["1", "7", "1000", "-3"],
        "train_fraction": ["0.6", "0.9"],
        "val_fraction": ["0.2", "0"],
        "test_fraction": ["0.2", "0.01"],
        "learning_rate": ["1e-3", "nan", "x"],
        "augment": ["none", "basic", "full", "much"],
        "cache": ["auto", "memory", "disk", "none"],
        "freeze": ["true", "false", "false"],
        "fine_tune_epochs": ["0", "0", "1"],
        "weights": ["none", "none", "imagenet", "no.h5"],
        "precision": ["float32", "mixed_bfloat16", "float8"],
        "loss_weights": ["class=0.7,brightness=0.3", "class=1", "x"],
        "early_stopping": ["0", "1"],
        "checkpoint_minutes": ["0", "10", "-1"],
        "deterministic": ["true", "false"],
        "on_bad_image": ["skip", "fail"],
        "strategy": ["auto", "none"],
        "resume": ["false"] * 5 + ["true"],
        "require_gpu": ["false"] * 5 + ["true"],
        "seed": ["0", "-1", "5"],
    }
    chosen = {name: options[0] for name, options in some.items() if name in ("data", "epochs", "weights")}
    chosen |= {"image_size": "16", "model": "lenet5"} | dict.fromkeys(("val_fraction", "test_fraction"), "0.2")
    chosen["train_fraction"] = "0.6"
    for name in generator.sample(list(some), generator.randint(1, 5)):
        chosen[name] = generator.choice(some[name])
    return [f"--{name}={value}" for name, value in chosen.items()] + [f"--run_dir={place}"]


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 40))])
def test_real_command_lines(images: pathlib.Path, tmp_path: pathlib.Path, seed: int) -> None:
    place = tmp_path / "run"
    command = _command(random.Random(seed), images, place)
    answer = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *command], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    said = answer.stdout + answer.stderr
    assert "Traceback" not in said, (command, said)
    if answer.returncode == 0:
        assert {"config.json", "model.keras", "test.json", "history.csv", "curves.png"} <= set(os.listdir(place))
        assert (place / "checkpoint" / "state.npz").exists(), "from which it can be trained on"
    else:
        assert answer.returncode == 2, (command, said)
        assert re.search(r"--\w+", answer.stderr), (command, said)
        assert not place.exists(), command
    assert set(os.listdir(tmp_path)) <= {"run"}, "nothing is written elsewhere"
