from __future__ import annotations

import keras
import numpy as np
import pytest

from models import layers


@pytest.fixture
def maps() -> keras.Model:
    inputs = keras.Input((3, 3, 4))
    return keras.Model(inputs, keras.layers.Activation("linear")(inputs), name="backbone")


def test_two_classes_are_one_logit():
    assert [layers.num_logits(n) for n in (2, 3, 10)] == [1, 3, 10]


def test_pooled_is_the_mean_then_a_dense_layer(maps):
    head = layers.pooled_head(maps, 3)
    features = np.random.RandomState(0).standard_normal((2, 3, 3, 4)).astype("float32")
    kernel, bias = head.get_layer("predictions").get_weights()

    np.testing.assert_allclose(head(features), features.mean((1, 2)) @ kernel + bias, atol=1e-6)


def test_the_one_logit_of_conv10_can_be_negative_and_several_are_rectified(maps):
    features = np.random.RandomState(0).standard_normal((64, 3, 3, 4)).astype("float32")

    assert np.min(layers.convolutional_head(maps, 2)(features)) < 0
    assert np.min(layers.convolutional_head(maps, 5)(features)) >= 0


def test_fully_connected_has_vggs_layers(maps):
    names = [layer.name for layer in layers.fully_connected_head(maps, 5, units=6).layers]

    assert names == ["flatten", "fc1", "drop1", "fc2", "drop2", "predictions"]
