"""SqueezeNet with its published weights on real images."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

import models
from models import weights
from models.weights import layers_with_weights

FILE = "squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5"
IMAGES_PER_CLASS = 100


def _pixels(path) -> np.ndarray:
    decoded = tf.io.decode_image(tf.io.read_file(str(path)), channels=3, expand_animations=False)
    return tf.image.resize(decoded, (227, 227)).numpy()


@pytest.fixture(scope="module")
def cats_and_dogs(request) -> tuple[np.ndarray, np.ndarray]:
    shared = request.getfixturevalue("shared")
    paths = [
        path
        for name in ("cat", "dog")
        for path in sorted((shared / "data/cat_dog" / name).iterdir())[:IMAGES_PER_CLASS]
    ]
    return np.stack([_pixels(path) for path in paths]), np.repeat([0, 1], IMAGES_PER_CLASS)


def _accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    features = (features - features.mean(0)) / (features.std(0) + 1e-6)
    return float(np.mean(cross_val_predict(LogisticRegression(C=0.01, max_iter=500), features, labels, cv=5) == labels))


def test_its_features_tell_cats_from_dogs(cats_and_dogs, shared):
    batch, labels = cats_and_dogs
    model = models.build("squeezenet", 2, transfer=True)
    weights.load(model, "squeezenet", str(shared / "weights" / FILE))
    backbone = model.get_layer("backbone")
    maps = backbone.predict(np.asarray(model.get_layer("preprocessing")(batch)), batch_size=25, verbose=0)

    # Measured 0.945; RGB for BGR gives 0.93, pixels in 0-1 0.865, random weights 0.635. Far above, labels would leak.
    assert 0.92 <= _accuracy(maps.mean((1, 2)), labels) <= 0.985


def test_every_published_tensor_is_used(shared):
    model = models.build("squeezenet", 2, transfer=True)
    before = {layer.name: layer.get_weights() for layer in layers_with_weights(model.get_layer("backbone"))}
    weights.load(model, "squeezenet", str(shared / "weights" / FILE))
    for layer in layers_with_weights(model.get_layer("backbone")):
        for old, new in zip(before[layer.name], layer.get_weights(), strict=True):
            assert not np.array_equal(old, new), layer.name
