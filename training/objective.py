"""What a head is trained towards: targets, losses and metrics, one rule for every model."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

# The loss to minimise, the metrics, and the loss as a metric.
_Loss = tuple[keras.losses.Loss, list[keras.metrics.Metric], keras.metrics.Metric]


@dataclass(frozen=True)
class Objective:
    """How the outputs of a model are compared with the images' labels.

    Attributes:
        num_classes: 2 or more. Two classes share one logit, above 0 for the second one.
        heads: names of the outputs: `("class",)`, or `("class", "brightness")`.
        loss_weights: the share of each head's loss when there are several.
    """

    num_classes: int
    heads: tuple[str, ...]
    loss_weights: dict[str, float]

    def targets(self, pixels: tf.Tensor, labels: tf.Tensor) -> Any:
        """Targets of a batch, computed from what the model sees: the pixels after augmentation.

        Args:
            pixels: `(batch, height, width, channels)` in 0-255.
            labels: `(batch,)` class indices.

        Returns:
            0 or 1, shape `(batch, 1)`, for two classes; one-hot rows, shape `(batch, num_classes)`, for more; with
            several heads a dict of them by name.
        """
        targets = {"class": self._class_target(labels)}
        if "brightness" in self.heads:
            targets["brightness"] = brightness(pixels)
        return targets["class"] if len(self.heads) == 1 else targets

    def compile_arguments(self) -> dict[str, Any]:
        """`loss`, `metrics` and `loss_weights` for `keras.Model.compile`, fresh ones at each call.

        With several heads the metrics hold each head's loss too, see `count_every_image`.
        """
        if len(self.heads) == 1:
            loss, metrics, _ = self._class_loss()
            return {"loss": loss, "metrics": metrics}
        losses = {"class": self._class_loss(), "brightness": _brightness_loss()}
        return {
            "loss": {head: losses[head][0] for head in self.heads},
            "metrics": {head: [*losses[head][1], losses[head][2]] for head in self.heads},
            "loss_weights": {head: self.loss_weights[head] for head in self.heads},
        }

    def _class_target(self, labels: tf.Tensor) -> tf.Tensor:
        if self.num_classes == 2:
            return tf.cast(labels, tf.float32)[:, tf.newaxis]
        return tf.one_hot(labels, self.num_classes)

    def _class_loss(self) -> _Loss:
        if self.num_classes == 2:
            # The default threshold of 0.5 is meant for probabilities; of logits it asks for a probability of 0.62.
            accuracy = keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy")
            exact = keras.metrics.BinaryCrossentropy(from_logits=True, name="loss")
            return keras.losses.BinaryCrossentropy(from_logits=True), [accuracy], exact
        accuracy = keras.metrics.CategoricalAccuracy(name="accuracy")
        exact = keras.metrics.CategoricalCrossentropy(from_logits=True, name="loss")
        return keras.losses.CategoricalCrossentropy(from_logits=True), [accuracy], exact


def brightness(pixels: tf.Tensor) -> tf.Tensor:
    """The mean of all pixels and channels of each image, scaled from 0-255 to 0-1. Shape `(batch, 1)`."""
    return tf.reduce_mean(tf.cast(pixels, tf.float32), axis=(1, 2, 3))[:, tf.newaxis] / 255.0


def count_every_image(model: keras.Model) -> None:
    """Lets a compiled `model` report each head's loss by the metric of that name, which counts every image once.

    Keras 3.15.1 keeps means of its own under the same names (`class_loss`), and weights the batches by their static
    size, which isn't known: a small last batch counts as much as a whole one. Its total loss, and all metrics, count
    right since keras#19363.
    """
    model.get_metrics_result = functools.partial(_metrics_before_trackers, model)


def _metrics_before_trackers(model: keras.Model) -> dict[str, Any]:
    results: dict[str, Any] = {}
    # In the order of Keras: the total loss, the compiled metrics, Keras's own means.
    for metric in model.metrics:
        result = metric.result()
        for name, value in (result if isinstance(result, dict) else {metric.name: result}).items():
            results.setdefault(name, value)
    return results


def _brightness_loss() -> _Loss:
    exact = keras.metrics.MeanSquaredError(name="loss")
    return keras.losses.MeanSquaredError(), [keras.metrics.MeanAbsoluteError(name="mae")], exact
