"""Where a model is trained: on one device, on all devices of this machine, or on those of several hosts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from data.pipeline import WHOLE, Share
from training import cluster, keras_multi_worker
from training.config import TrainConfig


@dataclass(frozen=True)
class Distribution:
    """The devices that train one model together, seen from one of its processes.

    Every batch is the batch of all devices: `--batch_size` counts pictures a step, over all of them, and the learning
    rate is the one that fits this size. Each device takes a slice of it, see `data.pipeline.Share`.

    Attributes:
        strategy: TensorFlow's own object.
        worker: index of this process among those that train together.
        workers: how many there are.
    """

    strategy: tf.distribute.Strategy
    worker: int = 0
    workers: int = 1

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.worker == 0

    @property
    def is_single(self) -> bool:
        """Whether there is one device only, so that nothing has to be shared."""
        return self.strategy.num_replicas_in_sync == 1

    @property
    def share(self) -> Share:
        """What this process makes of each batch: a slice for each of its devices."""
        devices = self.strategy.num_replicas_in_sync
        local = devices // self.workers
        return Share(devices, self.worker * local, local)

    def batches(self, make: Callable[[Share], tf.data.Dataset]) -> Any:
        """What to give to `fit` and `evaluate`: this process's slices of the batches, each for its device."""
        if self.is_single:
            return make(WHOLE)
        # The slices are made here, so TensorFlow must not cut or shard anything again. Every process knows how many
        # steps there are; a stream without an end spares asking the others at each step whether they have a batch.
        endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
        return self.strategy.distribute_datasets_from_function(lambda _: make(self.share).apply(endless))

    def compile(self, model: keras.Model, make_arguments: Callable[[], dict[str, Any]]) -> None:
        """`keras.Model.compile` for `batches`, so that losses and metrics are those of one device.

        Args:
            model: made in the strategy's scope.
            make_arguments: makes `optimizer`, `loss`, `metrics` and so on; made elsewhere, a metric counts only what
                one process sees.
        """
        with self.strategy.scope():
            arguments = make_arguments()
            if self.is_single:
                model.compile(**arguments)
                return
            model.compile(weighted_metrics=arguments.pop("metrics"), **arguments)
            keras_multi_worker.count_every_picture(model)

    def from_chief(self, value: bytes) -> bytes:
        """The chief's `value`, in every process; all must call this together."""
        if self.workers == 1:
            return value
        size = int(self._sum(np.array(len(value) if self.is_chief else 0, np.int64)))
        content = np.zeros(size, np.int32)
        if self.is_chief:
            content[:] = np.frombuffer(value, np.uint8)
        return self._sum(content).astype(np.uint8).tobytes()

    def arrays_from_chief(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The chief's floating-point arrays, in every process; all must pass arrays of these shapes together."""
        if self.workers == 1:
            return arrays
        return [self._sum(array if self.is_chief else np.zeros_like(array)) for array in arrays]

    def _sum(self, value: np.ndarray) -> np.ndarray:
        with tf.device("CPU"):
            local = tf.identity(value)
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, local, axis=None).numpy()


def choose(config: TrainConfig) -> Distribution:
    """Takes the devices that `--strategy` names; several hosts find each other here.

    Must run before TensorFlow has computed anything, for the connections to other hosts are made when it starts.

    Raises:
        UserError: there is no cluster to join, TF_CONFIG is wrong, or another worker doesn't come.
    """
    place = cluster.read() if config.strategy in ("auto", "multi_worker") else None
    if place is not None or config.strategy == "multi_worker":
        return _join(cluster.required(place))
    gpus = tf.config.list_logical_devices("GPU")
    if config.strategy == "mirrored" or (config.strategy == "auto" and len(gpus) > 1):
        keras_multi_worker.mend()
        return Distribution(tf.distribute.MirroredStrategy(_cpus() if not gpus else None))
    return Distribution(tf.distribute.get_strategy())


def synchronise_batch_norm(model: keras.Model) -> None:
    """Lets every BatchNormalization use the statistics of the whole batch, not of one device's slice.

    Otherwise the result would depend on the number of devices, and a slice of one picture has no variance.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True


def _cpus() -> list[str]:
    return [device.name for device in tf.config.list_logical_devices("CPU")]


def _join(place: cluster.Place) -> Distribution:
    keras_multi_worker.mend()
    cluster.watch(place)
    return Distribution(tf.distribute.MultiWorkerMirroredStrategy(), place.worker, place.workers)
