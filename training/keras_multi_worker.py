"""Mends `fit` and `evaluate` of Keras 3.15 under `tf.distribute`: several workers, and slices of unequal size.

The faults, of which the first two are keras#20585:

1. Before the first step, `_maybe_symbolic_build` averages a batch of the distributed iterator over the replicas, which
   neither several workers nor unequal slices survive. All it needs is shapes.
2. `reduce_per_replica` averages scalars along axis 0, which they lack, where there are several workers.
3. `train_step` and `test_step` take the mean over each slice and then the mean over the slices: not the batch's mean
   where a batch can't be divided. The steps here count every image of a batch the same.
4. `LossScaleOptimizer` looks for non-finite gradients before they are summed. Each worker then decides for itself
   whether to skip the step, and those that don't skip wait forever for those that do.

The first, the second and the fourth are looked for first and left alone where Keras has put them right.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.tensorflow import trainer as keras_trainer
from keras.src.optimizers.loss_scale_optimizer import LossScaleOptimizer

from errors import UserError

_CHECKED_WITH = "3.15."


def mend() -> list[str]:
    """Mends the faults that this Keras has, once for the process, and names them.

    Raises:
        UserError: they are mended for another version of Keras.
    """
    found = faults()
    if found and not keras.__version__.startswith(_CHECKED_WITH):
        raise UserError(
            f"Training on several devices needs Keras {_CHECKED_WITH}x, or one without these faults of it: "
            f"{', '.join(found)}. Received: Keras {keras.__version__}. Install the former or pass --strategy=none."
        )
    if "symbolic build" in found:
        trainer = keras_trainer.TensorFlowTrainer
        trainer._maybe_symbolic_build = _build_from_shapes(trainer._maybe_symbolic_build)
    if "scalar reduction" in found:
        keras_trainer.reduce_per_replica = _reduce_scalars(keras_trainer.reduce_per_replica)
    if "loss scaling" in found:
        LossScaleOptimizer.apply = _apply_together(LossScaleOptimizer.apply)
    return found


def count_every_image(model: keras.Model) -> None:
    """Gives `model` steps that weigh every image of a batch the same, however it was cut into slices.

    Each row of a slice comes with its weight, see `data.batches.Shard`; the metrics must be compiled as
    `weighted_metrics`, for Keras gives the counts to no others.
    """
    model.train_step = functools.partial(_train_step, model)
    model.test_step = functools.partial(_test_step, model)


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
    """This replica's share of the batch's mean loss, which sum up to it, and what updates the metrics."""
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


def faults() -> list[str]:
    """The faults that this Keras has and that `mend` has not put right yet."""
    checks: dict[str, Callable[[], bool]] = {
        "symbolic build": _averages_a_batch,
        "scalar reduction": _reduces_along_an_axis,
        "loss scaling": _scales_alone,
    }
    return [name for name, is_there in checks.items() if is_there()]


class _Probe(tf.distribute.MultiWorkerMirroredStrategy):
    """Passes for a strategy with two workers, without any, and writes down what it is asked to reduce."""

    def __init__(self) -> None:
        self.axes: list[Any] = []

    @property
    def extended(self) -> Any:
        return self

    def _in_multi_worker_mode(self) -> bool:
        return True

    def reduce(self, reduce_op: Any, value: Any, axis: Any = None) -> Any:
        self.axes.append(axis)
        return value

    def scope(self) -> Any:
        return tf.distribute.get_strategy().scope()

    @property
    def num_replicas_in_sync(self) -> int:
        return 2


class _Batches:
    """Passes for Keras's iterator over a distributed data set; `tf.distribute` must not compute anything yet."""

    class _Batch(tf.distribute.DistributedValues):
        pass

    class _distributed_dataset:  # noqa: N801
        element_spec = tf.TensorSpec((None, 1), tf.float32)

    def __iter__(self) -> Any:
        return iter([(0, 0, iter([self._Batch()]))])


def _reduces_along_an_axis() -> bool:
    probe = _Probe()
    keras_trainer.reduce_per_replica(1.0, probe, "mean")
    return probe.axes == [0]


def _averages_a_batch() -> bool:
    trainer: Any = types.SimpleNamespace(_symbolic_build=lambda data_batch: None)
    trainer._distribute_strategy = trainer.distribute_strategy = probe = _Probe()
    keras_trainer.TensorFlowTrainer._maybe_symbolic_build(trainer, iterator=_Batches())
    return bool(probe.axes)


def _scales_alone() -> bool:
    # Only several processes could show it by what they do.
    is_mended = "_apply_together" in LossScaleOptimizer.apply.__code__.co_qualname
    return not is_mended and "all_reduce(" not in inspect.getsource(LossScaleOptimizer._tf_apply)


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
    # With several devices per worker's spec holds one of each, all the same.
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
