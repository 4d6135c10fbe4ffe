"""VGG16 and ResNet50 against keras.applications with the same random weights."""

from __future__ import annotations

import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format

import models
from models import weights
from models.weights import layers_with_weights
from tests.models.deterministic import fill, pixels

IMAGE_SIZE = 64
CLASSES = 7
REFERENCES = {"vgg16": keras.applications.VGG16, "resnet50": keras.applications.ResNet50}
PREPROCESS = {
    "vgg16": keras.applications.vgg16.preprocess_input,
    "resnet50": keras.applications.resnet50.preprocess_input,
}
STAGES = {
    "vgg16": [f"block{block}_{layer}" for block in range(1, 6) for layer in ("conv1", "conv2", "pool")],
    "resnet50": [
        "conv1_relu",
        "pool1_pool",
        *(f"conv{s}_block{b}_out" for s, n in ((2, 3), (3, 4), (4, 6), (5, 3)) for b in range(1, n + 1)),
    ],
}


@pytest.fixture(scope="module", params=REFERENCES)
def pair(request, tmp_path_factory):
    """Our model and the reference, the same random weights in both, by way of a file of the published layout."""
    name = request.param
    reference = REFERENCES[name](
        weights=None, input_shape=(IMAGE_SIZE, IMAGE_SIZE, 3), classes=CLASSES, classifier_activation=None
    )
    fill(reference)
    path = tmp_path_factory.mktemp(name) / f"{name}_weights_tf_dim_ordering_tf_kernels.h5"
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, reference)
    ours = models.build(name, CLASSES, image_size=IMAGE_SIZE)
    weights.load(ours, name, str(path), include_head=True)
    return name, ours, reference


def _close(ours: np.ndarray, reference: np.ndarray) -> None:
    scale = np.abs(reference).max()
    assert scale > 1e-3
    np.testing.assert_allclose(ours / scale, reference / scale, rtol=0, atol=1e-5)


def test_logits_are_equal(pair):
    name, ours, reference = pair
    batch = pixels(2, IMAGE_SIZE, 3)
    expected = np.asarray(reference(PREPROCESS[name](batch.astype("float32")), training=False))
    logits = np.asarray(ours(batch, training=False))

    _close(logits, expected)
    assert np.ptp(expected) > 0.1


def test_activations_are_equal_stage_by_stage(pair):
    name, ours, reference = pair
    batch = pixels(2, IMAGE_SIZE, 3)
    backbone = ours.get_layer("backbone")
    probe = keras.Model(backbone.input, [backbone.get_layer(stage).output for stage in STAGES[name]])
    reference_probe = keras.Model(reference.input, [reference.get_layer(stage).output for stage in STAGES[name]])

    ours_values = probe(ours.get_layer("preprocessing")(batch), training=False)
    for values, expected in zip(
        ours_values, reference_probe(PREPROCESS[name](batch.astype("float32")), training=False), strict=True
    ):
        assert values.shape == expected.shape
        _close(np.asarray(values), np.asarray(expected))


def test_layers_come_in_the_order_of_the_published_files(pair):
    _, ours, reference = pair
    parts = (ours.get_layer("backbone"), ours.get_layer("head"))
    names = [layer.name for part in parts for layer in layers_with_weights(part)]

    assert names == [layer.name for layer in layers_with_weights(reference)]


@pytest.mark.parametrize(
    ("name", "depth"), [("resnet101", "ResNet101"), pytest.param("resnet152", "ResNet152", marks=pytest.mark.slow)]
)
def test_the_deeper_resnets_have_the_layers_of_keras_applications(name, depth):
    reference = getattr(keras.applications, depth)(weights=None, include_top=False, input_shape=(32, 32, 3))
    backbone = models.build(name, 2, image_size=32).get_layer("backbone")

    assert [(layer.name, [tuple(w.shape) for w in layer.weights]) for layer in layers_with_weights(backbone)] == [
        (layer.name, [tuple(w.shape) for w in layer.weights]) for layer in layers_with_weights(reference)
    ]
