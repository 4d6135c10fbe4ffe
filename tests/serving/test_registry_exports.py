"""Every network of the registry, exported in every format, answers as it did in Keras."""

from __future__ import annotations

import os
import pathlib
import zipfile
from dataclasses import dataclass

import keras
import numpy as np
import pytest
import tensorflow as tf

import models
from models.weights import layers_with_weights
from serving import export, other_formats
from serving.wire import Metadata
from tests.models.deterministic import fill, pixels
from training.heads import probabilities

# The smallest image that a network takes keeps the dense layers of AlexNet and VGG16 small.
SIZES = {name: max(spec.min_image_size, 8) for name, spec in models.REGISTRY.items()}
# Two classes are one logit, three are three; both kinds of head, functional and subclassed.
CLASSES = {name: ("cat", "dog") if name in ("squeezenet", "bn_mlp") else ("a", "b", "c") for name in models.REGISTRY}
LARGE = ("alexnet", "alexnet_owt", "vgg16", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
LOGITS = ("predictions", "conv10", "class_logits")
Heads = dict[str, np.ndarray]


@dataclass(frozen=True)
class Network:
    """A network of the registry with weights that matter, and what it gives for three images of noise."""

    model: keras.Model
    about: Metadata
    pixels: np.ndarray

    def heads(self) -> Heads:
        return as_heads(self.model(self.pixels.astype(np.float32), training=False))


def as_heads(outputs: tf.Tensor | dict[str, tf.Tensor]) -> Heads:
    heads = outputs if isinstance(outputs, dict) else {"class": outputs}
    return {name: np.asarray(values) for name, values in heads.items()}


def assert_equal(found: Heads, expected: Heads, tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=tolerance, atol=tolerance)
        # Constant answers would agree whatever the file did with its pixels.
        assert np.ptp(expected[name], axis=0).max() > 100 * tolerance


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in models.REGISTRY],
)
def network(request: pytest.FixtureRequest) -> Network:
    name, spec = request.param, models.find(request.param)
    model = models.build(name, len(CLASSES[name]), image_size=SIZES[name])
    fill(model)
    about = Metadata(name, CLASSES[name], SIZES[name], spec.channels, spec.heads)
    network = Network(model, about, pixels(3, SIZES[name], spec.channels))
    # Of logits in the hundreds, the probabilities would be 0 and 1 whatever the last digits say.
    (last,) = (layer for layer in layers_with_weights(model) if layer.name in LOGITS)
    factor = 3 / np.abs(network.heads()["class"]).max()
    for weight in last.weights:
        weight.assign(weight * factor)
    return network


def test_a_saved_model_holds_each_weight_once_and_answers_the_same(network: Network, tmp_path: pathlib.Path) -> None:
    export.save(network.model, str(tmp_path / "1"), network.about)
    stored = sum(path.stat().st_size for path in (tmp_path / "1" / "variables").glob("variables.data*"))
    weights = 4 * network.model.count_params()
    assert weights <= stored <= 1.01 * weights + 64_000
    answers = tf.saved_model.load(str(tmp_path / "1")).signatures["pixels"](pixels=tf.constant(network.pixels))
    heads = network.heads()
    heads["class"] = probabilities(heads["class"])
    heads = {name: values if name == "class" else values[:, 0] for name, values in heads.items()}
    found = {name: answers["probabilities" if name == "class" else name].numpy() for name in heads}
    assert_equal(found, heads, 1e-5)


# Keras converts by tf.lite, which TensorFlow 2.21 has announced to leave for a package of its own, ai-edge-litert.
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning")
def test_a_tflite_file_answers_the_same(network: Network, tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "model.tflite")
    other_formats.save(network.model, path, "tflite", network.about)
    run_signature = tf.lite.Interpreter(path).get_signature_runner()
    assert list(run_signature.get_input_details()) == ["pixels"]
    outputs = run_signature(pixels=network.pixels.astype(np.float32))
    assert_equal(named(outputs), network.heads(), 1e-4)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").decode().splitlines() == list(network.about.class_names)
        assert Metadata.from_json(archive.read("metadata.json")) == network.about


# tf2onnx 1.17 still asks NumPy for np.object, and catches the error.
@pytest.mark.filterwarnings("ignore:In the future `np:FutureWarning")
def test_an_onnx_file_answers_the_same(network: Network, tmp_path: pathlib.Path) -> None:
    for package in ("onnx", "tf2onnx"):
        pytest.importorskip(package, reason=f"{package} isn't installed (extra `onnx`)")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime isn't installed (extra `onnx`)")
    path = str(tmp_path / "model.onnx")
    other_formats.save(network.model, path, "onnx", network.about)
    weights = 4 * network.model.count_params()
    assert 0.99 * weights - 64_000 <= os.path.getsize(path) <= 1.01 * weights + 64_000
    session = onnxruntime.InferenceSession(path)
    assert [entry.name for entry in session.get_inputs()] == ["pixels"]
    names = [entry.name for entry in session.get_outputs()]
    outputs = session.run(names, {"pixels": network.pixels.astype(np.float32)})
    assert_equal(named(dict(zip(names, outputs, strict=True))), network.heads(), 1e-5)
    properties = session.get_modelmeta().custom_metadata_map
    assert properties["class_names"].splitlines() == list(network.about.class_names)
    assert Metadata.from_json(properties["metadata"]) == network.about


def named(outputs: Heads) -> Heads:
    """By head; the exporters give a single output a name of their own."""
    return outputs if len(outputs) > 1 else {"class": next(iter(outputs.values()))}
