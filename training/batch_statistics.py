"""BatchNormalization over the whole batch where it is cut into slices, with the arithmetic of one device.

Keras's own way, `synchronized=True`, computes the variance as E[x²] - E[x]², which loses digits where the mean is large
beside the deviation, and differs from what Keras computes on one device: the mean of the squared deviations.
"""

from __future__ import annotations

import functools
from typing import Any

import keras
import tensorflow as tf


def join(model: keras.Model) -> None:
    """Lets every BatchNormalization of `model` that is trained use the statistics of all slices of a batch."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer._moments = functools.partial(_moments, layer)


def _moments(layer: Any, inputs: tf.Tensor, mask: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and variance of each channel over all replicas' `inputs`, shape `(channels,)`."""
    replica = tf.distribute.get_replica_context()
    if replica is None or mask is not None:
        return type(layer)._moments(layer, inputs, mask)
    axes = layer._reduction_axes
    channels = tf.shape(inputs)[layer.axis]
    sums = tf.reduce_sum(inputs, axes), tf.cast(tf.size(inputs) // channels, inputs.dtype)
    total, count = replica.all_reduce(tf.distribute.ReduceOp.SUM, sums)
    mean = total / count
    shape = [1] * len(inputs.shape)
    shape[layer.axis] = -1
    # As in tf.nn.moments: the part of the gradient that goes through the mean is zero, but for rounding.
    deviations = tf.math.squared_difference(inputs, tf.reshape(tf.stop_gradient(mean), shape))
    variance = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.reduce_sum(deviations, axes)) / count
    return mean, variance
