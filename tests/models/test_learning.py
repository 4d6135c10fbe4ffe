"""Every family learns a handful of pictures by heart: no disconnected layer, no dead activation."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import golden
from tests.models.deterministic import pixels

STEPS = 60


@pytest.mark.parametrize("name", golden.VARIANTS)
def test_a_tiny_network_overfits_and_every_weight_moves(name):
    keras.utils.set_random_seed(3)
    model = golden.VARIANTS[name]()
    height, width, channels = golden.input_size(model)
    batch, labels = pixels(6, height, channels), np.arange(6) % 3
    targets: dict | np.ndarray = labels
    loss: dict | keras.Loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if name == "multitask":
        targets = {"class": labels > 0, "brightness": batch.mean((1, 2, 3))[:, np.newaxis] / 255}
        loss = {"class": keras.losses.BinaryCrossentropy(from_logits=True), "brightness": "mse"}
    before = [weight.numpy() for weight in model.trainable_weights]
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss=loss)

    steps = tf.data.Dataset.from_tensors((batch, targets)).repeat(STEPS)
    first = model.evaluate(batch, targets, verbose=0, return_dict=True)["loss"]
    model.fit(steps, steps_per_epoch=STEPS, shuffle=False, verbose=0)
    last = model.evaluate(batch, targets, verbose=0, return_dict=True)["loss"]

    assert last < 0.7 * first, (first, last)
    moved = [not np.array_equal(a, b.numpy()) for a, b in zip(before, model.trainable_weights, strict=True)]
    assert all(moved)
