from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import models
from errors import UserError
from models import weights
from models.layers import freeze_backbone, last_convolution
from tests.models import golden
from tests.models.deterministic import fill, pixels

DEEP = ("resnet101", "resnet152")


@pytest.fixture
def bfloat16():
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")


def _outputs(model: keras.Model, batch: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(value) for value in tf.nest.flatten(model(batch, training=False))]


def _assert_survives(model: keras.Model, batch: np.ndarray, path) -> keras.Model:
    model.save(path)
    loaded = weights.load_trained(path)
    for before, after in zip(_outputs(model, batch), _outputs(loaded, batch), strict=True):
        assert before.dtype == after.dtype == np.float32
        np.testing.assert_array_equal(before, after)
    return loaded


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in DEEP else name for name in models.REGISTRY]
)
def test_every_model_gives_the_same_logits_after_saving_under_mixed_precision(name, tmp_path, bfloat16):
    spec = models.find(name)
    model = models.build(name, 2, image_size=spec.min_image_size, transfer=True)
    batch = pixels(2, spec.min_image_size, spec.channels)
    keras.config.set_dtype_policy("mixed_bfloat16")
    model.save(tmp_path / "model.keras")

    # The file, not the process that reads it, says what a model computes in.
    keras.config.set_dtype_policy("float32")
    loaded = weights.load_trained(tmp_path / "model.keras")
    for before, after in zip(_outputs(model, batch), _outputs(loaded, batch), strict=True):
        assert before.dtype == after.dtype == np.float32
        np.testing.assert_array_equal(before, after)
    assert last_convolution(loaded) == last_convolution(model)


@pytest.mark.parametrize("name", golden.VARIANTS)
def test_every_family_gives_the_same_logits_after_saving(name, tmp_path):
    model = golden.VARIANTS[name]()
    fill(model)
    height, _, channels = golden.input_size(model)

    loaded = _assert_survives(model, pixels(2, height, channels), tmp_path / "model.keras")

    assert [loaded.get_layer(part).name for part in ("preprocessing", "backbone", "head")]


def test_a_model_within_a_model_survives(tmp_path):
    inner = golden.VARIANTS["resnet18"]()
    fill(inner)
    inputs = keras.Input(inner.input_shape[1:])
    outer = keras.Model(inputs, keras.layers.Dense(1)(inner(inputs)))
    outer.save(tmp_path / "outer.keras")
    batch = pixels(2, inner.input_shape[1], 3)

    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "outer.keras")(batch), outer(batch))


def test_a_frozen_backbone_is_still_frozen_after_saving(tmp_path):
    for name in ("vgg16", "bn_mlp", "multitask"):
        model = golden.VARIANTS[name]()
        freeze_backbone(model)
        model.save(tmp_path / "model.keras")
        loaded = weights.load_trained(tmp_path / "model.keras")

        in_head = {weight.path for weight in loaded.get_layer("head").weights}
        assert {weight.path for weight in loaded.trainable_weights} == in_head


@pytest.mark.parametrize("name", ["bn_mlp", "multitask", "plain_mlp", "resnet18"])
def test_float_pixels_are_not_rounded_before_preprocessing(name, bfloat16):
    model = golden.VARIANTS[name]()
    seen = []
    layer = model.get_layer("preprocessing")
    call = layer.call
    layer.call = lambda values, **kwargs: seen.append(np.asarray(values)) or call(values, **kwargs)
    batch = np.full((1, *golden.input_size(model)), 100.37, "float32")

    model(batch)

    np.testing.assert_array_equal(seen[-1], batch)


PLAIN_KERAS = """
import importlib, json, sys
import keras, numpy as np
folder, module = sys.argv[1:]
if module:
    sys.path.insert(0, ".")
    importlib.import_module(module)
else:
    sys.modules["models"] = None  # As if it were not installed.
for name in json.load(open(f"{folder}/names.json")):
    model = keras.models.load_model(f"{folder}/{name}.keras")
    batch = np.load(f"{folder}/{name}.pixels.npy")
    values = model(batch, training=False)
    np.save(f"{folder}/{name}.npy", values["class"] if isinstance(values, dict) else values)
"""


def _opened_elsewhere(models_by_name: dict[str, keras.Model], folder: pathlib.Path, module: str = "") -> None:
    """Asserts that a process that doesn't know this program opens the models and gives the same logits."""
    (folder / "names.json").write_text(json.dumps(list(models_by_name)))
    for name, model in models_by_name.items():
        model.save(folder / f"{name}.keras")
        np.save(folder / f"{name}.pixels.npy", pixels(2, golden.input_size(model)[0], golden.input_size(model)[-1]))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    place = {"cwd": folder} if not module else {}
    done = subprocess.run(
        # -P leaves the working directory out of sys.path.
        [sys.executable, "-P", "-c", PLAIN_KERAS, str(folder), module],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        **place,
    )
    assert done.returncode == 0, done.stderr
    for name, model in models_by_name.items():
        values = model(np.load(folder / f"{name}.pixels.npy"), training=False)
        values = values["class"] if isinstance(values, dict) else values
        np.testing.assert_array_equal(np.load(folder / f"{name}.npy"), values)


PLAIN = [name for name, spec in models.REGISTRY.items() if not spec.import_needed]
SHALLOW = [name for name in PLAIN if name not in DEEP]


@pytest.mark.parametrize(
    ("names", "transfer"),
    [
        (SHALLOW, False),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [(SHALLOW, True), (DEEP, False), (DEEP, True)]),
    ],
)
def test_plain_keras_opens_every_functional_network(names, transfer, tmp_path):
    built = {}
    for name in names:
        built[name] = models.build(name, 3, image_size=models.find(name).min_image_size, transfer=transfer)
    _opened_elsewhere(built, tmp_path)


@pytest.mark.parametrize("name", [name for name in golden.VARIANTS if not models.find(name).import_needed])
def test_the_same_network_built_again_has_the_same_configuration(name):
    first, second = (json.dumps(golden.VARIANTS[name]().get_config(), default=str, sort_keys=True) for _ in range(2))

    assert first == second


def test_plain_keras_opens_the_small_networks_also_filled_and_frozen(tmp_path):
    built = {name: make() for name, make in golden.VARIANTS.items() if not models.find(name).import_needed}
    for model in built.values():
        fill(model)
        freeze_backbone(model)
    _opened_elsewhere(built, tmp_path)


@pytest.mark.parametrize("name", ["bn_mlp", pytest.param("multitask", marks=pytest.mark.slow)])
def test_the_others_open_after_the_one_import_that_is_named(name, tmp_path):
    model = models.build(name, 2, image_size=models.find(name).min_image_size)

    _opened_elsewhere({name: model}, tmp_path, models.find(name).import_needed)
    with pytest.raises(AssertionError, match="Could not locate class"):
        _opened_elsewhere({name: model}, tmp_path)


def test_a_model_of_an_earlier_version_is_refused_in_one_sentence(tmp_path):
    path = tmp_path / "model.keras"
    golden.VARIANTS["lenet5"]().save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    layer = {"module": "models.preprocessing", "class_name": "Preprocessing", "config": {"mode": "lecun"}}
    config = json.loads(members["config.json"])
    config["config"]["layers"][1].update(layer, registered_name="darkroom>Preprocessing")
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)

    with pytest.raises(UserError, match="written by an earlier version of this program.*train again") as caught:
        weights.load_trained(path)
    assert "\n" not in str(caught.value)


def test_a_damaged_or_foreign_file_gives_one_clear_message(tmp_path):
    text = tmp_path / "text.keras"
    text.write_text("not a model")
    cut = tmp_path / "cut.keras"
    golden.VARIANTS["lenet5"]().save(cut)
    cut.write_bytes(cut.read_bytes()[:3000])
    other = tmp_path / "other.keras"
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(other)

    for path in (text, cut, other, tmp_path / "missing.keras"):
        with pytest.raises(UserError, match=f"{path.name} must be a model.keras written by train.py"):
            weights.load_trained(path)


def test_code_in_a_model_file_is_refused(tmp_path):
    path = tmp_path / "hostile.keras"
    model = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x + 1)])
    model.save(path)
    with pytest.raises(UserError, match="Lambda|lambda"):
        weights.load_trained(path)

    ran = tmp_path / "ran"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["config.json"] = json.dumps(
        {"module": "os", "class_name": "system", "config": {"command": f"touch {ran}"}, "registered_name": None}
    ).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(UserError):
        weights.load_trained(path)
    assert not ran.exists()
