"""The devices that train a model: one device, all devices of this machine, or the devices of several hosts."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.python.eager import context

from data.batches import Batches, Shard
from errors import UserError, counted
from training import heads
from training.config import TrainConfig
from training.distributed import cluster, keras_patches
from training.distributed.workers import Workers


class WorkerLostError(UserError):
    """Another worker has ended, or can't be reached any more; this one can't train without it."""

    # Above 127, so that Kubeflow's restart policy ExitCode retries.
    exit_code = 138


@dataclass(frozen=True)
class Distribution(Workers):
    """The devices that train one model together, seen from one of their processes.

    Every batch is the batch of all devices: `batch_size` counts images per step, over all of them, and the learning
    rate is for this size. Each device takes a slice of the batch, see `data.batches.Shard`.

    Attributes:
        strategy: TensorFlow's strategy.
        worker: index of this process.
        workers: number of processes that train together.
    """

    strategy: tf.distribute.Strategy
    worker: int = 0
    workers: int = 1

    @property
    def is_single(self) -> bool:
        """Whether there is only one device."""
        return self.strategy.num_replicas_in_sync == 1

    @property
    def shard(self) -> Shard:
        """The slices of each batch that this process makes, one per device."""
        devices = self.strategy.num_replicas_in_sync
        local = devices // self.workers
        return Shard(devices, self.worker * local, local)

    def described(self) -> str:
        """What to add to the list of this process's devices."""
        if self.workers > 1:
            return f" in each of {self.workers} workers"
        return "" if self.is_single else f", {self.strategy.num_replicas_in_sync} of them together"

    def synchronize(self, model: keras.Model) -> None:
        """Lets every BatchNormalization use the statistics of the global batch, not of one device's slice.

        Otherwise the result would depend on the number of devices, and a slice of one image has no variance.
        """
        if not self.is_single:
            keras_patches.synchronize_batch_normalization(model)

    def training(self, batches: Batches, first_epoch: int, last_epoch: int, first_step: int = 0) -> Any:
        """The data for `fit`: this process's slices of the batches, one per device."""
        mine = dataclasses.replace(batches, shard=self.shard)
        return self.distributed(lambda: mine.training(first_epoch, last_epoch, first_step))

    def evaluation(self, batches: Batches, first_step: int = 0) -> Any:
        """The data for `evaluate`, sliced as in `training`."""
        mine = dataclasses.replace(batches, shard=self.shard)
        return self.distributed(lambda: mine.evaluation(first_step))

    def distributed(self, make: Callable[[], tf.data.Dataset]) -> Any:
        """The slices that `make` returns, one per device."""
        if self.is_single:
            return make()
        # The slices are made here, so TensorFlow must not cut or shard anything again. Every process knows how many
        # steps there are; an endless stream spares asking the others at each step whether they have a batch.
        endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
        return self.strategy.distribute_datasets_from_function(lambda _: make().apply(endless))

    def compile(self, model: keras.Model, make_arguments: Callable[[], dict[str, Any]]) -> None:
        """`keras.Model.compile` for `distributed`, so that losses and metrics are those of one device.

        Args:
            model: made in the strategy's scope.
            make_arguments: makes `optimizer`, `loss`, `metrics` and so on in the strategy's scope; a metric made
                elsewhere counts only what one process sees.
        """
        with self.strategy.scope():
            arguments = make_arguments()
            if self.is_single:
                model.compile(**arguments)
            else:
                model.compile(weighted_metrics=arguments.pop("metrics"), **arguments)
                keras_patches.count_every_image(model)
            heads.count_every_image(model)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The sum of all workers' `values`, which have the same shape and dtype."""
        if self.workers == 1:
            return values
        with tf.device("CPU"):
            local = tf.identity(values)
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, local, axis=None).numpy()

    def gather(self, value: Any) -> np.ndarray:
        """The rows of all devices' `value`, in no fixed order; all workers must call this together."""
        return self.strategy.gather(value, axis=0).numpy()

    @contextlib.contextmanager
    def explained(self, run_dir: str) -> Iterator[None]:
        """Replaces TensorFlow's error when a step has failed because of another worker.

        Args:
            run_dir: the run folder, for the message.

        Raises:
            WorkerLostError: another worker has ended or can't be reached.
        """
        try:
            yield
        except _LOST as error:
            if self.workers == 1:
                raise
            silent = ", ".join(sorted(set(re.findall(r"task:(\d+)", str(error))) - {str(self.worker)}))
            raise WorkerLostError(
                f"Worker {self.worker} stops because worker {silent or 'another'} has ended or can't be reached; its "
                "messages say why. Start all workers again, any number of them, with --resume to continue from the "
                f"last checkpoint in --run_dir={run_dir}. TensorFlow said: {str(error).splitlines()[0][:200]}"
            ) from error


ALONE = Distribution(tf.distribute.get_strategy())


# The errors of a collective operation that has lost its peer or its connection.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.FailedPreconditionError,
)


def prepare_devices(config: TrainConfig) -> list[str]:
    """Sets dtype policy, determinism and seed of this process, and names the devices that were found.

    Raises:
        UserError: a GPU is required and there is none.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if config.require_gpu and not gpus:
        raise UserError(
            "`require_gpu` needs a GPU that TensorFlow can use. Received: none. Install the libraries with "
            "`pip install -e .[gpu]`, look at `nvidia-smi`, or leave out `require_gpu`."
        )
    for gpu in gpus:
        # Otherwise TensorFlow takes all of the memory, and a second process on the same GPU fails.
        tf.config.experimental.set_memory_growth(gpu, True)
    keras.mixed_precision.set_global_policy(config.precision)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(config.seed)
    return [_described(gpu) for gpu in gpus] or ["CPU"]


def _described(gpu: tf.config.PhysicalDevice) -> str:
    details = tf.config.experimental.get_device_details(gpu)
    return f"{gpu.name.removeprefix('/physical_device:')} {details.get('device_name', '')}".strip()


def choose(config: TrainConfig) -> Distribution:
    """Chooses the devices that `strategy` names; several hosts connect here.

    Must run before TensorFlow has computed anything, since it connects to other hosts when it starts.

    Raises:
        UserError: there is no cluster to join, TF_CONFIG is wrong, or another worker doesn't come.
    """
    worker = cluster.from_environment() if config.strategy in ("auto", "multi_worker") else None
    if worker is None and config.strategy == "multi_worker":
        raise UserError(
            "--strategy=multi_worker needs TF_CONFIG, which names the workers. Received: none. Start the "
            "processes by `python -m training.launch --workers=2 -- train.py ...`, or pass --strategy=auto."
        )
    if worker is not None:
        chosen = _join(worker)
    elif config.strategy == "mirrored" or (
        config.strategy == "auto" and len(tf.config.list_logical_devices("GPU")) > 1
    ):
        chosen = _mirror()
    else:
        chosen = ALONE
    devices = chosen.shard.slices
    if config.batch_size < devices:
        raise UserError(
            "`batch_size` counts the images of a step over all devices together, so it must be at least their number. "
            f"Received: batch_size={config.batch_size} for {counted(devices, 'device')}."
        )
    return chosen


@functools.cache
def _mirror() -> Distribution:
    """Once per process: TensorFlow 2.21 confuses the sums of a second strategy with the first one's."""
    keras_patches.apply()
    cpus = [device.name for device in tf.config.list_logical_devices("CPU")]
    return Distribution(tf.distribute.MirroredStrategy(None if tf.config.list_logical_devices("GPU") else cpus))


@functools.cache
def _join(worker: cluster.Worker) -> Distribution:
    """Once per process, which can join only one cluster; later trainings in it use the same one."""
    keras_patches.apply()
    os.environ["TF_CONFIG"] = worker.tf_config()
    seconds = cluster.wait_seconds()
    cluster.meet(worker, seconds, len(tf.config.list_physical_devices("GPU")))
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=int(1000 * seconds),
        heartbeat_timeout_in_ms=1000 * cluster.HEARTBEAT_SECONDS,
        shutdown_barrier_timeout_in_ms=1000 * cluster.HEARTBEAT_SECONDS,
        coordinated_jobs=[
            coordination_config_pb2.CoordinatedJob(name="worker", num_tasks=len(worker.addresses)),
        ],
    )
    try:
        return Distribution(tf.distribute.MultiWorkerMirroredStrategy(), worker.index, len(worker.addresses))
    except (tf.errors.OpError, RuntimeError) as error:
        raise UserError(
            f"The workers of TF_CONFIG must find each other within {seconds:.0f} seconds ({cluster.WAIT_VARIABLE}). "
            f"Received, in worker {worker.index} at {worker.address}: {str(error).splitlines()[0][:300]}. Check that "
            f"all of {', '.join(worker.addresses)} are started, that each address belongs to its host, and that no "
            "other program uses the port."
        ) from error
