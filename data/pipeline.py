"""Batches as a function of (seed, step): any batch of any epoch can be made without the ones before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from data.augment import augment, layers, num_draws
from data.decode import decode
from data.source import Source

Targets = Callable[[tf.Tensor, tf.Tensor], Any]


@dataclass(frozen=True)
class Files:
    """Rows that are decoded when they are needed: pictures as paths or encoded bytes, and their labels."""

    source: Source
    image_size: int
    channels: int

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True)
class Table:
    """Rows that lie in memory, or in a file mapped into it: arrays with one row a picture.

    The first column is what the model sees, pixels or features; the second is the labels, or the targets themselves.
    """

    inputs: np.ndarray
    labels: Any

    def __len__(self) -> int:
        return len(self.inputs)


Rows = Files | Table


@dataclass(frozen=True)
class Steps:
    """Which training steps to make batches for.

    Attributes:
        batch_size: pictures a step; the last step of an epoch takes what is left.
        seed: decides order and augmentation.
        first_epoch: index of the epoch to begin with.
        last_epoch: index of the epoch to stop before.
        first_step: step in the first epoch to begin with, after a run was stopped in the middle of it.
    """

    batch_size: int
    seed: int
    first_epoch: int
    last_epoch: int
    first_step: int = 0


def steps_per_epoch(rows: Rows, batch_size: int) -> int:
    """How many batches show each row once; the last may be smaller."""
    return -(-len(rows) // batch_size)


def training_batches(
    rows: Rows, steps: Steps, *, level: str = "none", targets: Targets | None = None
) -> tf.data.Dataset:
    """Shuffled, augmented batches `(pixels, targets)`; each epoch shows every row once, in an order of its own.

    Args:
        rows: what to draw from.
        steps: which steps, and the seed.
        level: of augmentation, `none`, `basic` or `full`.
        targets: makes the targets from `(pixels, labels)` after augmentation; None gives the labels themselves.
    """
    per_epoch = steps_per_epoch(rows, steps.batch_size)
    random_layers = layers(level)
    count = num_draws(random_layers)

    def indices(epoch: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        positions = _positions(step, steps.batch_size, len(rows))
        seed = tf.stack([tf.constant(steps.seed, tf.int64), epoch])
        return tf.random.experimental.index_shuffle(positions, seed, len(rows) - 1)

    def finish(pixels: tf.Tensor, labels: tf.Tensor, epoch: tf.Tensor, step: tf.Tensor) -> tuple:
        if random_layers:
            seed = tf.stack([tf.constant(steps.seed, tf.int64), epoch * per_epoch + step])
            draws = tf.random.stateless_uniform((steps.batch_size, count), seed)
            pixels = augment(pixels, random_layers, draws[: tf.shape(pixels)[0]])
        return pixels, targets(pixels, labels) if targets else labels

    dataset = _epochs_and_steps(steps, per_epoch)
    dataset = _fetch(rows, dataset, indices, steps.batch_size)
    dataset = dataset.map(finish, num_parallel_calls=tf.data.AUTOTUNE)
    total = (steps.last_epoch - steps.first_epoch) * per_epoch - steps.first_step
    return dataset.apply(tf.data.experimental.assert_cardinality(total)).prefetch(tf.data.AUTOTUNE)


def ordered_batches(rows: Rows, batch_size: int, targets: Targets | None = None) -> tf.data.Dataset:
    """Batches `(pixels, targets)` in the order of the rows, every row once, nothing random: for evaluation."""
    count = steps_per_epoch(rows, batch_size)

    def indices(epoch: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        return _positions(step, batch_size, len(rows))

    def finish(pixels: tf.Tensor, labels: tf.Tensor, epoch: tf.Tensor, step: tf.Tensor) -> tuple:
        return pixels, targets(pixels, labels) if targets else labels

    one_pass = Steps(batch_size, seed=0, first_epoch=0, last_epoch=1)
    dataset = _fetch(rows, _epochs_and_steps(one_pass, count), indices, batch_size)
    dataset = dataset.map(finish, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.apply(tf.data.experimental.assert_cardinality(count)).prefetch(tf.data.AUTOTUNE)


def _epochs_and_steps(steps: Steps, per_epoch: int) -> tf.data.Dataset:
    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        start = tf.where(epoch == steps.first_epoch, tf.constant(steps.first_step, tf.int64), 0)
        return tf.data.Dataset.range(start, per_epoch).map(lambda step: (epoch, step))

    return tf.data.Dataset.range(steps.first_epoch, steps.last_epoch).flat_map(one_epoch)


def _positions(step: tf.Tensor, batch_size: int, num_rows: int) -> tf.Tensor:
    return tf.range(step * batch_size, tf.minimum((step + 1) * batch_size, num_rows))


def _fetch(rows: Rows, steps: tf.data.Dataset, indices: Callable, batch_size: int) -> tf.data.Dataset:
    """From (epoch, step) to (pixels, labels, epoch, step)."""
    if isinstance(rows, Files):
        return _decode_files(rows, steps, indices, batch_size)
    with tf.device("CPU"):
        # Over an aligned array this is a view, so neither memory nor a mapped file is copied.
        inputs, labels = tf.nest.map_structure(tf.convert_to_tensor, (rows.inputs, rows.labels))

    def gather(epoch: tf.Tensor, step: tf.Tensor) -> tuple:
        chosen = indices(epoch, step)
        row = lambda column: tf.gather(column, chosen)  # noqa: E731
        return row(inputs), tf.nest.map_structure(row, labels), epoch, step

    return steps.map(gather, num_parallel_calls=tf.data.AUTOTUNE)


def _decode_files(rows: Files, steps: tf.data.Dataset, indices: Callable, batch_size: int) -> tf.data.Dataset:
    """Decodes single pictures in parallel across batches and epochs, then batches them.

    The last batch of an epoch is filled up with blanks, which are cut off again: so one stream of pictures goes through
    the parallel map and the decoders don't stand still at the end of an epoch.
    """
    with tf.device("CPU"):
        records = tf.constant(rows.source.records)
        labels = tf.constant(rows.source.labels)
    blank = tf.zeros((rows.image_size, rows.image_size, rows.channels), tf.uint8)

    def pictures_of(epoch: tf.Tensor, step: tf.Tensor) -> tf.data.Dataset:
        chosen = indices(epoch, step)
        padding = batch_size - tf.shape(chosen)[0]
        return tf.data.Dataset.from_tensor_slices(tf.pad(chosen, [[0, padding]], constant_values=-1))

    def decode_one(index: tf.Tensor) -> tf.Tensor:
        return tf.cond(
            index < 0, lambda: blank, lambda: decode(_read(rows, records[index]), rows.image_size, rows.channels)
        )

    def join(pixels: tf.Tensor, step: tuple[tf.Tensor, tf.Tensor]) -> tuple:
        chosen = indices(*step)
        return pixels[: tf.shape(chosen)[0]], tf.gather(labels, chosen), *step

    pixels = steps.flat_map(pictures_of).map(decode_one, num_parallel_calls=tf.data.AUTOTUNE)
    pixels = pixels.batch(batch_size, drop_remainder=True, num_parallel_calls=tf.data.AUTOTUNE)
    return tf.data.Dataset.zip(pixels, steps).map(join, num_parallel_calls=tf.data.AUTOTUNE)


def _read(rows: Files, record: tf.Tensor) -> tf.Tensor:
    return tf.io.read_file(record) if rows.source.holds_paths else record
