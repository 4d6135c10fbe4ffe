"""Images per second of `model.fit` for every network: as in the tutorials, and as in this program.

`python -m benchmarks.train_step --data=cat_dog/ --batch_size=256` on a GPU; `--models=lenet5,squeezenet --batch_size=16
--steps=10` on a CPU. The first row trains in float32 on synthetic images with XLA off; the second as `train.py`
does (bfloat16 on a GPU, XLA as Keras resolves it); the third reads JPEG files in place of synthetic images.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from typing import Any

from absl import flags

import cli
import models
import startup

# Dense matrix operations per second in bfloat16 without sparsity, from NVIDIA's data sheets.
_PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
_WARM_UP_STEPS = 3

flags.DEFINE_string("data", None, "Folder with one sub-folder per class. Default: synthetic images only.")
flags.DEFINE_list("models", sorted(models.REGISTRY), "Networks to measure.")
flags.DEFINE_integer("batch_size", 32, "Images per step.")
flags.DEFINE_integer("steps", 30, "Timed steps, after three warm-up steps.")
flags.DEFINE_integer("repeats", 3, "Repeats of each measurement; the median counts.")
flags.DEFINE_string("json", None, "File for the figures.")


def main(argv: list[str]) -> None:
    """Prints one table per network, and the share of the chip's peak if it is known."""
    for name in flags.FLAGS.models:
        models.find(name)
    startup.load_tensorflow()
    from benchmarks.table import as_markdown, machine, measure_side_by_side, write_json
    from training.config import TrainConfig
    from training.distributed import strategy

    found = strategy.prepare_devices(TrainConfig())
    print(" | ".join([*machine().values(), *found]), "\n")
    tables = {}
    for name in flags.FLAGS.models:
        contestants = {
            "plain Keras, float32, synthetic": functools.partial(_rate, name, tuned=False, real=False),
            "ours, synthetic": functools.partial(_rate, name, tuned=True, real=False),
        }
        if flags.FLAGS.data:
            contestants["ours, JPEG files"] = functools.partial(_rate, name, tuned=True, real=True)
        tables[name] = rows = measure_side_by_side(contestants, flags.FLAGS.repeats)
        print(as_markdown(name, "images per second", rows, compare="plain Keras, float32, synthetic"))
        print(_share_of_peak(name, rows[1].median, found))
        if flags.FLAGS.data:
            print(f"JPEG files in place of synthetic images: {rows[2].median / rows[1].median - 1:+.1%} images/s.")
        print(flush=True)
    if flags.FLAGS.json:
        write_json(flags.FLAGS.json, tables)


def _rate(name: str, *, tuned: bool, real: bool) -> float:
    """Images per second in the timed steps of one `fit`."""
    import keras
    import tensorflow as tf

    from training.heads import Objective, heads_of

    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    keras.backend.clear_session()
    keras.mixed_precision.set_global_policy("mixed_bfloat16" if tuned and has_gpu else "float32")
    spec = models.find(name)
    model = models.build(name, 2)
    objective = Objective(heads_of(name, ("first", "second")))
    model.compile(
        optimizer=keras.optimizers.Adam(1e-4), jit_compile="auto" if tuned else False, **objective.compile_arguments()
    )
    steps = _WARM_UP_STEPS + flags.FLAGS.steps
    timer = _timer()
    model.fit(_batches(spec, objective, real), steps_per_epoch=steps, shuffle=False, callbacks=[timer], verbose=0)
    keras.mixed_precision.set_global_policy("float32")
    return flags.FLAGS.batch_size * flags.FLAGS.steps / timer.seconds


def _timer() -> Any:
    """A callback that measures from the end of the last warm-up step to the end of training."""
    import keras

    class Timer(keras.callbacks.Callback):
        seconds = 0.0

        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            # Reading the loss waits for the device; otherwise only the queueing would be timed.
            float((logs or {})["loss"])
            if batch == _WARM_UP_STEPS - 1:
                self.start = time.perf_counter()
            self.seconds = time.perf_counter() - getattr(self, "start", time.perf_counter())

    return Timer()


def _batches(spec: models.ModelSpec, objective: Any, real: bool) -> Any:
    import tensorflow as tf

    from data import folder
    from data.batches import Batches

    size, batch = spec.image_size, flags.FLAGS.batch_size
    if real:
        images = Batches(folder.load(flags.FLAGS.data), image_size=size, channels=spec.channels)
        return dataclasses.replace(images, batch_size=batch, targets=objective.targets).training(0, 1000)
    pixels = tf.random.stateless_uniform((batch, size, size, spec.channels), (0, 0), 0, 256, tf.int32)
    pixels = tf.cast(pixels, tf.uint8)
    example = pixels, objective.targets(pixels, tf.range(batch, dtype=tf.int64) % 2, {})
    return tf.data.Dataset.from_tensors(example).repeat().prefetch(4)


def _share_of_peak(name: str, rate: float, found: list[str]) -> str:
    peak = next((value for chip, value in _PEAK.items() if any(chip in device for device in found)), None)
    operations = 3 * _forward_operations(name)
    if peak is None:
        return f"{operations / 1e9:.1f} billion operations per image (forward and backward)."
    return f"{rate * operations / peak:.1%} of the chip's {peak / 1e12:.0f} TFLOP/s."


def _forward_operations(name: str) -> float:
    """Two per multiply-add of convolutions and dense layers, for one image; the rest is small."""
    import keras
    import numpy as np

    operations = 0.0
    for layer in models.build(name, 2)._flatten_layers():
        if isinstance(layer, keras.layers.Conv2D):
            operations += 2.0 * np.prod(layer.kernel.shape) * np.prod(layer.output.shape[1:3])
        elif isinstance(layer, keras.layers.Dense):
            operations += 2.0 * np.prod(layer.kernel.shape)
    return operations


if __name__ == "__main__":
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    cli.run(main)
