"""What Keras 3.15 lacks under `tf.distribute`: several workers, slices of unequal size, and exact BatchNormalization.

`apply` replaces three methods of Keras, which have these faults:

1. Before the first step, `_maybe_symbolic_build` averages a batch of the distributed iterator over the replicas, which
   fails with several workers and with unequal slices (keras#20585). All it needs is shapes.
2. With several workers, `reduce_per_replica` averages scalars along axis 0, which they lack (keras#20585).
3. `LossScaleOptimizer` looks for non-finite gradients before they are summed, and applies the answer of one replica
   to all. A worker that skips a step leaves the others waiting for it. No issue is known.

The patches can go when Keras trains with `MultiWorkerMirroredStrategy` and skips steps in all workers together. The
functions for one model do what Keras doesn't promise, and stay.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.tensorflow import trainer as keras_trainer
from keras.src.optimizers.loss_scale_optimizer import LossScaleOptimizer

from errors import UserError

_VERSION = "3.15."


def apply() -> None:
    """Patches Keras, once for the process.

    Raises:
        UserError: Keras is not the version with these faults.
    """
    if not keras.__version__.startswith(_VERSION):
        raise UserError(
            f"Training on several devices needs Keras {_VERSION}x, whose faults are patched. Received: Keras "
            f"{keras.__version__}. Install `keras>=3.15.1,<3.16`, or pass --strategy=none."
        )
    _apply_once()


def count_every_image(model: keras.Model) -> None:
    """Gives `model` steps that weigh every image of a batch the same, however it was cut into slices.

    Keras takes the mean over each slice, and then the mean over the slices: not the mean of a batch whose slices
    differ in size. Each row of a slice comes with its weight, see `data.batches.Shard`; the metrics must be compiled
    as `weighted_metrics`, since Keras passes the weights to no others.
    """
    model.train_step = functools.partial(_train_step, model)
    model.test_step = functools.partial(_test_step, model)


def synchronize_batch_normalization(model: keras.Model) -> None:
    """Lets every BatchNormalization use the statistics of all slices of a batch, with the arithmetic of one device.

    Keras's own `synchronized=True` computes the variance as E[x²] - E[x]², which loses digits where the mean is large
    beside the deviation, and differs from what Keras computes on one device: the mean of the squared deviations.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer._moments = functools.partial(_moments, layer)


@functools.cache
def _apply_once() -> None:
    trainer = keras_trainer.TensorFlowTrainer
    trainer._maybe_symbolic_build = _build_from_shapes(trainer._maybe_symbolic_build)
    keras_trainer.reduce_per_replica = _reduce_scalars(keras_trainer.reduce_per_replica)
    LossScaleOptimizer.apply = _apply_together(LossScaleOptimizer.apply)


def _build_from_shapes(original: Callable) -> Callable:
    @functools.wraps(original)
    def build(self: Any, iterator: Any = None, data_batch: Any = None) -> None:
        strategy = self._distribute_strategy
        if iterator is None or strategy is None or strategy.num_replicas_in_sync == 1:
            original(self, iterator, data_batch)
            return
        shapes = tf.nest.map_structure(_of_one_row, iterator._distributed_dataset.element_spec)
        with strategy.scope():
            self._symbolic_build(data_batch=shapes)

    return build


def _of_one_row(spec: tf.TypeSpec) -> keras.KerasTensor:
    # With several devices per worker the spec holds one of each, all the same.
    first = spec if isinstance(spec, tf.TensorSpec) else spec._value_specs[0]
    return keras.KerasTensor((1, *first.shape[1:]), first.dtype.name)


def _reduce_scalars(original: Callable) -> Callable:
    @functools.wraps(original)
    def reduce(values: Any, strategy: Any, reduction: str) -> Any:
        if reduction in ("auto", "mean") and keras_trainer._collective_all_reduce_multi_worker(strategy):
            return tf.nest.map_structure(lambda value: strategy.reduce("MEAN", value, axis=None), values)
        return original(values, strategy, reduction)

    return reduce


def _apply_together(original: Callable) -> Callable:
    @functools.wraps(original)
    def apply(self: Any, grads: list[Any], trainable_variables: Any = None) -> None:
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            bad = 1.0 - tf.cast(self.check_finite(grads), tf.float32)
            everywhere = replica.all_reduce(tf.distribute.ReduceOp.SUM, bad)
            poison = tf.where(everywhere > 0, float("nan"), 0.0)
            grads = [grad if grad is None else grad + tf.cast(poison, grad.dtype) for grad in grads]
        original(self, grads, trainable_variables)

    return apply


def _train_step(model: Any, slices: tuple) -> dict[str, tf.Tensor]:
    with tf.GradientTape() as tape:
        loss, logs = _step(model, slices, training=True)
        scaled = model.optimizer.scale_loss(loss)
    gradients = tape.gradient(scaled, model.trainable_weights)
    model.optimizer.apply_gradients(zip(gradients, model.trainable_weights, strict=True))
    return logs()


def _test_step(model: Any, slices: tuple) -> dict[str, tf.Tensor]:
    _, logs = _step(model, slices, training=False)
    return logs()


def _step(model: Any, slices: tuple, training: bool) -> tuple[tf.Tensor, Callable]:
    """This replica's share of the batch's mean loss, and a function that updates the metrics and returns them."""
    inputs, targets, counts = slices
    replica = tf.distribute.get_replica_context()
    devices = replica.num_replicas_in_sync
    images = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.reduce_sum(counts))
    outputs = model(inputs, training=training)
    # Keras divides the sum over a slice by its rows, and by the devices.
    rows = tf.cast(tf.size(counts), tf.float32)
    loss = model.compute_loss(
        inputs, targets, outputs, sample_weight=counts * rows * devices / images, training=training
    )
    model._loss_tracker.update_state(loss * devices, sample_weight=images / devices)
    return loss, lambda: model.compute_metrics(inputs, targets, outputs, sample_weight=counts)


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
