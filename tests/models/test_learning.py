"""Every family learns a handful of images by heart: no disconnected layer, no dead activation."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from models import mlp, subclassed
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


def test_the_brightness_of_new_images_is_learned_beside_a_class_that_can_only_be_memorised():
    keras.utils.set_random_seed(4)
    (train, val), labels = _noisy_images(192, 64), np.random.default_rng(5).integers(0, 2, (192, 1))
    model = subclassed.MultiTaskNet((48, 48, 3), (64, 16), 2)
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss={"class": keras.losses.BinaryCrossentropy(from_logits=True), "brightness": "mse"},
        loss_weights={"class": 0.7, "brightness": 0.3},
    )
    steps = tf.data.Dataset.from_tensor_slices((train, {"class": labels, "brightness": _brightness(train)}))
    model.fit(steps.batch(16), epochs=8, shuffle=False, verbose=0)

    error = np.abs(model(val)["brightness"] - _brightness(val)).mean()
    error_of_a_constant = np.abs(np.median(_brightness(train)) - _brightness(val)).mean()

    assert error < error_of_a_constant / 3, (error, error_of_a_constant)


@pytest.mark.parametrize("image_size", [16, 128])
def test_a_step_of_adam_moves_a_unit_as_far_whatever_the_size_of_the_image(image_size):
    keras.utils.set_random_seed(6)
    backbone = mlp.backbone(image_size, 3, (64,))
    before_relu = keras.Model(backbone.input, backbone.get_layer("hidden1").output)
    backbone.get_layer("hidden1").activation = keras.activations.linear
    batch = np.random.default_rng(7).uniform(-1, 1, (8, image_size, image_size, 3)).astype("float32")
    before = before_relu(batch).numpy()

    kernel = backbone.get_layer("hidden1").kernel
    kernel.assign_add(np.full(kernel.shape, 1e-3, "float32") * np.sign(batch[:1].reshape(-1, 1)))

    # The unit sees 768 numbers, or as much as 1,024, of 0.5 in the mean; He initialization doubles their variance.
    moved = np.abs(before_relu(batch)[0] - before[0])
    assert 0.3 < moved.max() < 0.6
    assert 0.7 < before.std() < 0.95


def _noisy_images(*counts: int) -> list[np.ndarray]:
    generator = np.random.default_rng(8)
    shades = [generator.uniform(60, 190, (count, 1, 1, 1)) for count in counts]
    noisy = [shade + generator.normal(0, 40, (len(shade), 48, 48, 3)) for shade in shades]
    return [images.clip(0, 255).astype("float32") for images in noisy]


def _brightness(images: np.ndarray) -> np.ndarray:
    return images.mean((1, 2, 3))[:, np.newaxis] / 255
