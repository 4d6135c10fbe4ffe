"""Trains small networks in this process, by itself or with other workers, for tests that compare the results.

`python -m tests.training.distributed.trainings FOLDER STRATEGY DEVICES`: each training leaves its run folder in FOLDER;
with more than one device, the CPU is taken for so many.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf

import models
from training.config import TrainConfig
from training.resolve import resolved
from training.trainer import train

# 17 and 9 images over in the last step of an epoch, or 1 and 1: it can't be divided, or has fewer than devices.
_DIGITS = {"data": "digits", "train_fraction": 0.1, "learning_rate": 1e-3, "epochs": 2}
TRAININGS: dict[str, dict] = {
    "scratch": {"model": "lenet5", "image_size": 16, "batch_size": 54, "augment": "full"},
    "two_heads": {"model": "multitask", "image_size": 8, "batch_size": 89, "epochs": 1},
    "phases": {"model": "lenet5", "image_size": 16, "freeze": True, "fine_tune_epochs": 1, "batch_size": 54},
    "bfloat16": {"model": "lenet5", "image_size": 16, "batch_size": 54, "precision": "mixed_bfloat16", "epochs": 1},
    "float16": {"model": "lenet5", "image_size": 16, "batch_size": 54, "precision": "mixed_float16", "epochs": 1},
    "batch_norm": {"model": "bn_mlp", "image_size": 8, "batch_size": 60, "epochs": 1},
}


def weights_file(folder: str) -> str:
    """A trained network to start from, the same in every process."""
    return os.path.join(folder, "start.weights.h5")


def write_weights(folder: str) -> None:
    """Writes what `weights_file` names."""
    keras.utils.set_random_seed(1)
    models.build("lenet5", 10, image_size=16, transfer=True).save_weights(weights_file(folder))


def main() -> None:
    """Runs all trainings, one after the other."""
    folder, strategy, devices = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if devices > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
    for name in sys.argv[4:] or TRAININGS:
        keras.backend.clear_session()
        weights = weights_file(os.path.dirname(folder)) if name == "phases" else "none"
        flags = {**_DIGITS, **TRAININGS[name], "weights": weights}
        run_dir = os.path.join(folder, name)
        train(resolved(TrainConfig(**flags, strategy=strategy, run_dir=run_dir)), f"test {name}")


if __name__ == "__main__":
    main()
