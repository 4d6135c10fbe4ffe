"""Steps in float16 whose gradients are too large in worker 1 only; prints the loss scale that the workers end with."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from training.config import TrainConfig
from training.distributed import strategy


def main() -> None:
    """Trains one dense layer for five steps."""
    keras.mixed_precision.set_global_policy("mixed_float16")
    distribution = strategy.choose(TrainConfig(strategy="multi_worker"))
    # Float16 ends at 65,504.
    inputs = np.full((2, 4), 6e4 if distribution.worker == 1 else 1.0, np.float32)

    def batches() -> tf.data.Dataset:
        return tf.data.Dataset.from_tensors((inputs, np.ones((2, 1), np.float32), np.ones(2, np.float32))).repeat(5)

    with distribution.strategy.scope():
        entrance = keras.Input((4,))
        outputs = keras.layers.Dense(1, dtype="float32")(keras.layers.Dense(3)(entrance))
        model = keras.Model(entrance, outputs)
        distribution.compile(model, lambda: {"optimizer": keras.optimizers.SGD(0.01), "loss": "mse", "metrics": []})
        model.fit(distribution.distributed(batches), steps_per_epoch=5, verbose=0, shuffle=False)
    print(f"scale {float(model.optimizer.dynamic_scale.numpy())}")


if __name__ == "__main__":
    main()
