from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.distributed.strategy import ALONE
from training.heads import BrightnessHead, Objective, make

PIXELS = tf.constant(np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3)).astype(np.uint8))


def objective(num_classes: int, weights: dict[str, float]) -> Objective:
    return Objective(make(weights, tuple("abcd"[:num_classes]), weights))


def brightness(pixels: tf.Tensor) -> tf.Tensor:
    return BrightnessHead().target(pixels, tf.zeros(len(pixels), tf.int64), {})


def evaluate(objective: Objective, outputs: object, labels: np.ndarray) -> dict[str, float]:
    """What Keras reports for a model that gives exactly `outputs`."""
    inputs = keras.Input((1,))
    names = list(outputs) if isinstance(outputs, dict) else [None]
    flat = outputs if isinstance(outputs, dict) else {None: outputs}
    tables = {name: tf.constant(flat[name], tf.float32) for name in names}

    def pick(name: str | None) -> keras.layers.Layer:
        lookup = lambda index: tf.gather(tables[name], tf.cast(index[:, 0], tf.int32))  # noqa: E731
        return keras.layers.Lambda(lookup, output_shape=tables[name].shape[1:], name=name)(inputs)

    model = keras.Model(inputs, {name: pick(name) for name in names} if isinstance(outputs, dict) else pick(None))
    ALONE.compile(model, objective.compile_arguments)
    index = tf.range(len(labels), dtype=tf.float32)[:, tf.newaxis]
    targets = objective.targets(PIXELS, tf.constant(labels), {})
    # Four rows, then two, of a size that the graph doesn't know, as in training.
    batches = tf.data.Dataset.from_tensor_slices((index, targets)).batch(4)
    return model.evaluate(batches, verbose=0, return_dict=True)


def test_the_accuracy_of_one_logit_is_judged_at_zero() -> None:
    """At 0.5, the default threshold, the third image would count as class 0."""
    logits = np.asarray([[-3.0], [-0.1], [0.3], [0.1], [4.0], [-0.2]])
    labels = np.asarray([0, 0, 1, 1, 1, 1])
    metrics = evaluate(objective(2, {"class": 1.0}), logits, labels)
    assert metrics["accuracy"] == pytest.approx(5 / 6)
    signs = np.where(labels == 1, 1, -1)
    assert metrics["loss"] == pytest.approx(np.log1p(np.exp(-signs * logits[:, 0])).mean(), rel=1e-5)


def test_more_classes_are_one_hot_with_softmax() -> None:
    logits = np.random.default_rng(1).normal(size=(6, 4))
    labels = np.asarray([0, 1, 2, 3, 0, 1])
    metrics = evaluate(objective(4, {"class": 1.0}), logits, labels)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert metrics["loss"] == pytest.approx(-np.log(probabilities[np.arange(6), labels]).mean(), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx((logits.argmax(axis=1) == labels).mean())


def test_each_head_has_its_own_metrics_and_the_losses_are_weighted() -> None:
    labels = np.asarray([0, 1, 1, 0, 1, 0])
    logits = np.asarray([[1.0], [2.0], [-1.0], [-2.0], [3.0], [0.5]])
    shades = np.linspace(0.2, 0.8, 6)[:, np.newaxis]
    weights = {"class": 0.7, "brightness": 0.3}
    metrics = evaluate(objective(2, weights), {"class": logits, "brightness": shades}, labels)
    truth = brightness(PIXELS).numpy()
    assert metrics["class_accuracy"] == pytest.approx(3 / 6)
    assert metrics["brightness_mae"] == pytest.approx(np.abs(shades - truth).mean(), rel=1e-5)
    signs = np.where(labels == 1, 1, -1)
    class_loss, brightness_loss = np.log1p(np.exp(-signs * logits[:, 0])).mean(), ((shades - truth) ** 2).mean()
    assert metrics["class_loss"] == pytest.approx(class_loss, rel=1e-5)
    assert metrics["brightness_loss"] == pytest.approx(brightness_loss, rel=1e-5)
    assert metrics["loss"] == pytest.approx(0.7 * class_loss + 0.3 * brightness_loss, rel=1e-5)


def test_each_head_of_many_classes_counts_every_image_once() -> None:
    logits = np.random.default_rng(2).normal(size=(6, 4)) * 3
    labels = np.asarray([0, 1, 2, 3, 0, 1])
    weights = {"class": 1.0, "brightness": 0.0}
    metrics = evaluate(objective(4, weights), {"class": logits, "brightness": np.full((6, 1), 0.5)}, labels)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    wanted = -np.log(probabilities[np.arange(6), labels]).mean()
    assert metrics["class_loss"] == pytest.approx(wanted, rel=1e-5)
    assert metrics["loss"] == pytest.approx(wanted, rel=1e-5)


def test_brightness_is_the_mean_of_the_pixels() -> None:
    assert brightness(tf.fill((1, 2, 2, 3), 255)).numpy().tolist() == [[1.0]]
    np.testing.assert_allclose(brightness(PIXELS)[:, 0], PIXELS.numpy().mean(axis=(1, 2, 3)) / 255, rtol=1e-5)


def test_brightness_errors() -> None:
    def measured(targets: list[float], estimates: list[float]) -> dict[str, float | None]:
        return BrightnessHead().measure(np.array(targets)[:, np.newaxis], {"brightness": np.array(estimates)})

    found = measured([0.2, 0.4, 0.6], [0.3, 0.4, 0.4])
    assert found["mae"] == pytest.approx(0.1)
    assert found["rmse"] == pytest.approx(math.sqrt(0.05 / 3))
    assert found["r2"] == pytest.approx(1 - 0.05 / 0.08)
    assert measured([0.5], [0.4])["r2"] is None
    assert measured([0.5, 0.5], [0.4, 0.5])["r2"] is None
