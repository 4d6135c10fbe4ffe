"""The cost of training with several workers, and a projection to clusters: `python -m benchmarks.scaling`.

Each row starts its workers as processes on this machine. A worker always gets the same number of images per step, so
on separate hosts the throughput would grow with the number of workers; processes that share the cores of one machine
can only show the time that a worker adds to a step.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time

from absl import flags

import cli
import models
import startup

# Bytes per second in one direction, for a ring all-reduce at 80 % of the link's nominal speed.
_LINKS = {"10 Gbit/s Ethernet": 1.0e9, "100 Gbit/s Ethernet": 1.0e10, "400 Gbit/s InfiniBand": 4.0e10}
_CLUSTERS = (2, 8, 32, 128)
_WARM_UP_STEPS = 5

flags.DEFINE_enum("model", "lenet5", sorted(models.REGISTRY), "Network to train.")
flags.DEFINE_integer("image_size", None, "Height and width in px. Default: the model's.")
flags.DEFINE_integer("batch_size", 32, "Images per step and worker.")
flags.DEFINE_integer("steps", 40, "Timed steps, after five warm-up steps.")
flags.DEFINE_list("workers", ["1", "2", "4"], "Numbers of workers to measure, 1 first.")
flags.DEFINE_string("write_to", None, "For internal use: the file that the chief worker writes its figures to.")


def main(argv: list[str]) -> None:
    """Prints the measured table, the projection, and what both assume."""
    if flags.FLAGS.write_to:
        _work(flags.FLAGS.write_to)
        return
    counts = [int(count) for count in flags.FLAGS.workers]
    figures = {count: _measure(count) for count in counts}
    alone = figures[counts[0]]
    print(
        f"{os.cpu_count()} cores, {flags.FLAGS.model}, {flags.FLAGS.batch_size} images per step and worker, on a CPU.\n"
    )
    print("| workers | ms per step | images/s, all | of which all-reduce | added to a step by each worker, ms |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for count, row in figures.items():
        added = (row["step"] - alone["step"]) / (count - 1) if count > 1 else 0.0
        rate = count * flags.FLAGS.batch_size / row["step"]
        share = row["reduce"] / row["step"]
        print(f"| {count} | {1e3 * row['step']:.1f} | {rate:.0f} | {share:.0%} | {1e3 * added:.1f} |")
    print(f"\n{_caveat(max(counts))}\n\n{_projection(alone)}")


def _caveat(largest: int) -> str:
    cores = os.cpu_count() or 1
    return (
        f"With {largest} workers on {cores} cores the workers compete for the cores: the throughput says "
        "nothing about a cluster. Only the last column does, as an upper bound, since it includes the waiting."
        if largest * 2 > cores
        else "The workers share the memory and caches of one machine."
    )


def _projection(alone: dict[str, float]) -> str:
    """Efficiency of larger clusters, from the step time of one worker, the gradients' size and the link speed."""
    lines = [
        f"Projection from a step of {1e3 * alone['step']:.1f} ms and {alone['bytes'] / 1e6:.1f} MB of float32 "
        "gradients: throughput as a percentage of the throughput without communication. It assumes one device per "
        "host, a ring all-reduce of 2 (n-1)/n times the gradients through each link at 80 % of its nominal speed, no "
        "overlap with the backward pass, 20 microseconds per ring step, and an input pipeline that keeps up.",
        "",
        "| hosts | " + " | ".join(_LINKS) + " |",
        "| ---: |" + " ---: |" * len(_LINKS),
    ]
    for hosts in _CLUSTERS:
        cells = []
        for speed in _LINKS.values():
            reduce = 2 * (hosts - 1) / hosts * alone["bytes"] / speed + 2 * (hosts - 1) * 20e-6
            cells.append(f"{alone['step'] / (alone['step'] + reduce):.0%}")
        lines.append(f"| {hosts} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _measure(workers: int) -> dict[str, float]:
    """The chief worker's figures, from a run of `workers` processes."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "figures.json")
        same = [f"--{name}={flags.FLAGS[name].value}" for name in ("model", "batch_size", "steps")]
        size = [f"--image_size={flags.FLAGS.image_size}"] if flags.FLAGS.image_size else []
        launch = [sys.executable, "-m", "training.launch", f"--workers={workers}", "--", os.path.abspath(__file__)]
        environment = {**os.environ, "PYTHONPATH": os.getcwd()}
        subprocess.run([*launch, *same, *size, f"--write_to={path}"], check=True, env=environment)
        with open(path, encoding="utf-8") as file:
            return json.load(file)


def _work(path: str) -> None:
    """Times the steps of `fit` in one worker, and the all-reduce of as many gradients alone."""
    startup.load_tensorflow()
    import keras

    from training.config import TrainConfig
    from training.distributed import strategy

    config = TrainConfig(strategy="multi_worker", batch_size=65536)
    strategy.prepare_devices(config)
    distribution = strategy.choose(config)
    with distribution.strategy.scope():
        model = models.build(flags.FLAGS.model, 10, image_size=flags.FLAGS.image_size)
        distribution.synchronize(model)
        step = _step_seconds(model, distribution)
    size = sum(4 * int(keras.ops.size(weight)) for weight in model.trainable_weights)
    figures = {"step": step, "reduce": _reduce_seconds(distribution, size), "bytes": float(size)}
    if distribution.is_chief:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(figures, file)


def _step_seconds(model, distribution) -> float:  # type: ignore[no-untyped-def]
    import keras
    import numpy as np

    from data.batches import Batches
    from training.heads import Objective, heads_of

    total, size = _WARM_UP_STEPS + flags.FLAGS.steps, flags.FLAGS.batch_size * distribution.workers
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (4 * size, *model.input_shape[1:]), np.uint8)
    objective = Objective(heads_of(flags.FLAGS.model, tuple("0123456789")))
    labels = generator.integers(0, 10, len(pixels))
    times: list[float] = []
    clock = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: times.append(time.monotonic()))
    distribution.compile(model, lambda: {"optimizer": keras.optimizers.Adam(1e-4), **objective.compile_arguments()})
    batches = Batches(pixels, labels, batch_size=size, targets=objective.targets)
    slices = distribution.training(batches, 0, -(-total // 4))
    model.fit(slices, steps_per_epoch=total, callbacks=[clock], shuffle=False, verbose=0)
    return (times[-1] - times[_WARM_UP_STEPS - 1]) / (len(times) - _WARM_UP_STEPS)


def _reduce_seconds(distribution, size: int) -> float:  # type: ignore[no-untyped-def]
    """Seconds to sum `size` bytes over all workers in one piece; 0 for one worker."""
    import tensorflow as tf

    @tf.function
    def reduce() -> tf.Tensor:
        def one() -> tf.Tensor:
            replica = tf.distribute.get_replica_context()
            return tf.reduce_sum(replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.random.uniform((size // 4,))))

        return distribution.strategy.run(one)

    reduce()
    start = time.monotonic()
    for _ in range(10):
        reduce()
    return (time.monotonic() - start) / 10 if distribution.workers > 1 else 0.0


if __name__ == "__main__":
    cli.run(main)
