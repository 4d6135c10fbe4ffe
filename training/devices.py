"""What to compute on, how precisely, and how repeatably."""

from __future__ import annotations

import keras
import tensorflow as tf

from errors import UserError
from training.config import TrainConfig


def prepare(config: TrainConfig) -> list[str]:
    """Sets precision, determinism and seed for this process and names the devices that were found.

    Raises:
        UserError: a GPU is required and there is none.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if config.require_gpu and not gpus:
        raise UserError(
            "--require_gpu needs a GPU that TensorFlow can use. Received: none. Install the libraries with "
            "`pip install -e .[gpu]`, look at `nvidia-smi`, or leave out --require_gpu."
        )
    for gpu in gpus:
        # Otherwise TensorFlow takes all of the memory, and a second process on the same GPU fails.
        tf.config.experimental.set_memory_growth(gpu, True)
    keras.mixed_precision.set_global_policy(config.precision)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(config.seed)
    return [_describe(gpu) for gpu in gpus] or ["CPU"]


def _describe(gpu: tf.config.PhysicalDevice) -> str:
    details = tf.config.experimental.get_device_details(gpu)
    return f"{gpu.name.removeprefix('/physical_device:')} {details.get('device_name', '')}".strip()
