"""Batches as a function of (seed, step): any batch of any epoch can be made without the ones before it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from data.augment import augment, layers, num_draws
from data.decode import decode
from data.order import epoch_order
from data.share import WHOLE, Place, Share, bounds, counts, largest_slice
from data.source import Source

# What the parallel calls have ready comes on top.
_BATCHES_AHEAD = 2

# From the pixels, the labels and the further columns of a batch.
Targets = Callable[[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]], Any]
# A batch, or a slice of it, to make: its place, and the indices of its rows.
Slice = tuple[Place, tf.Tensor]
# From the steps of an epoch, and what makes the batches of one step, to the batches, made by others and in any order.
Elsewhere = Callable[[tf.data.Dataset, Callable[[tf.Tensor], tf.data.Dataset]], tf.data.Dataset]


@dataclass(frozen=True)
class Files:
    """Rows that are decoded when they are needed: images as paths or encoded bytes, and their labels."""

    source: Source
    image_size: int
    channels: int

    def __len__(self) -> int:
        return len(self.source)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """Further values of the images."""
        return self.source.columns


@dataclass(frozen=True)
class Table:
    """Rows that lie in memory, or in a file mapped into it: arrays with one row per image.

    The first column is what the model sees, pixels or features; the second is the labels, or the targets themselves.
    Further columns, by name, are those that targets are made from.
    Of a table with several views, the rows of the second view follow those of the first, and so on; an epoch shows one
    view of each image, the next epoch the next one.
    """

    inputs: np.ndarray
    labels: Any
    views: int = 1
    columns: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.inputs) // self.views


Rows = Files | Table


@dataclass(frozen=True)
class View:
    """One random look at every image, which `number` and `seed` decide; the default is the image as it is."""

    level: str = "none"
    seed: int = 0
    number: int = 0


AS_IT_IS = View()


@dataclass(frozen=True)
class Steps:
    """Which training steps to make batches for.

    Attributes:
        batch_size: images per step; the last step of an epoch takes what is left.
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
    rows: Rows,
    steps: Steps,
    *,
    level: str = "none",
    targets: Targets | None = None,
    share: Share = WHOLE,
    elsewhere: Elsewhere | None = None,
) -> tf.data.Dataset:
    """Shuffled, augmented batches `(pixels, targets)`; each epoch shows every row once, in an order of its own.

    Args:
        rows: what to draw from.
        steps: which steps, and the seed.
        level: of augmentation, `none`, `basic` or `full`.
        targets: makes the targets from `(pixels, labels, columns)` after augmentation; None gives the labels.
        share: which slices of each batch to make; where it is cut, the rows' counts come third.
        elsewhere: has the batches of one epoch made by others; they come in any order, each once.
    """
    return _batches(rows, steps, level, targets, share, elsewhere, shuffled=True)


def ordered_batches(
    rows: Rows,
    batch_size: int,
    targets: Targets | None = None,
    share: Share = WHOLE,
    view: View = AS_IT_IS,
    elsewhere: Elsewhere | None = None,
    first_step: int = 0,
) -> tf.data.Dataset:
    """Batches `(pixels, targets)` in the order of the rows, every row once; nothing random unless `view` says so.

    With `share` it makes slices of the batches, and the rows' counts come third; with `elsewhere` others make them, and
    they come in any order; both as in `training_batches`. From `first_step` on, the batches are those of a whole pass.
    """
    one_pass = Steps(batch_size, view.seed, view.number, view.number + 1, first_step)
    return _batches(rows, one_pass, view.level, targets, share, elsewhere, shuffled=False)


def _batches(
    rows: Rows,
    steps: Steps,
    level: str,
    targets: Targets | None,
    share: Share,
    elsewhere: Elsewhere | None,
    *,
    shuffled: bool,
) -> tf.data.Dataset:
    per_epoch = steps_per_epoch(rows, steps.batch_size)
    look = _augmentation(level, steps, per_epoch)

    def rows_in(epoch: tf.Tensor) -> Callable[..., Slice]:
        order = epoch_order(steps.seed, epoch, len(rows)) if shuffled else None
        return functools.partial(_slice_at, order=order, batch_size=steps.batch_size, num_rows=len(rows), share=share)

    def finish(pixels: tf.Tensor, labels: tf.Tensor, columns: dict[str, tf.Tensor], place: Place) -> tuple:
        pixels = look(pixels, place, bounds(place, steps.batch_size, len(rows), share))
        batch = pixels, targets(pixels, labels, columns) if targets else labels
        return (*batch, *counts(place, steps.batch_size, len(rows), share))

    def make(slices: tf.data.Dataset) -> tf.data.Dataset:
        largest = largest_slice(steps.batch_size, len(rows), share)
        return _fetch(rows, slices, largest).map(finish, num_parallel_calls=tf.data.AUTOTUNE)

    if elsewhere:
        epoch = tf.constant(steps.first_epoch, tf.int64)
        in_epoch = tf.data.Dataset.range(steps.first_step, per_epoch)
        rows_at = rows_in(epoch)
        dataset = elsewhere(in_epoch, lambda step: make(_parts(epoch, step, share).map(rows_at)))
    else:
        dataset = make(_slices(steps, per_epoch, share, rows_in))
    total = ((steps.last_epoch - steps.first_epoch) * per_epoch - steps.first_step) * share.count
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(total)).prefetch(_BATCHES_AHEAD)
    return dataset.with_options(_untuned())


def _untuned() -> tf.data.Options:
    """Without tf.data's own tuning; `AUTOTUNE` then stands for a call a core, 16 at most.

    The thread that tunes sleeps twice as long each time, up to a minute, and is often not woken at the end of a pass,
    which then lasts until it wakes by itself: 20.7 s in place of 12.3 s (TensorFlow 2.21; no upstream issue found).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return options


def _augmentation(level: str, steps: Steps, per_epoch: int) -> Callable:
    """A function of (pixels, place, bounds) that gives each image of a slice its own random view."""
    random_layers = layers(level)
    shape = (steps.batch_size, num_draws(random_layers))

    def look(pixels: tf.Tensor, place: Place, bounds: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        if not random_layers:
            return pixels
        seed = tf.stack([tf.constant(steps.seed, tf.int64), place[0] * per_epoch + place[1]])
        draws = tf.random.stateless_uniform(shape, seed)
        return augment(pixels, random_layers, draws[bounds[0] : bounds[1]])

    return look


def _slices(steps: Steps, per_epoch: int, share: Share, rows_in: Callable) -> tf.data.Dataset:
    """Each batch or slice to make; the order of an epoch is computed once, when its first batch is asked for."""

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        start = tf.where(epoch == steps.first_epoch, tf.constant(steps.first_step, tf.int64), 0)
        places = tf.data.Dataset.range(start, per_epoch).flat_map(lambda step: _parts(epoch, step, share))
        return places.map(rows_in(epoch))

    return tf.data.Dataset.range(steps.first_epoch, steps.last_epoch).flat_map(one_epoch)


def _slice_at(*place: tf.Tensor, order: tf.Tensor | None, batch_size: int, num_rows: int, share: Share) -> Slice:
    """The place and the indices of its rows: those at its positions in `order`, or the positions themselves."""
    first = place[1] * batch_size
    start, stop = bounds(place, batch_size, num_rows, share)
    positions = tf.range(first + start, first + stop)
    return place, positions if order is None else tf.gather(order, positions)


def _parts(epoch: tf.Tensor, step: tf.Tensor, share: Share) -> tf.data.Dataset:
    return tf.data.Dataset.range(share.first, share.first + share.count).map(lambda part: (epoch, step, part))


def _fetch(rows: Rows, slices: tf.data.Dataset, largest: int) -> tf.data.Dataset:
    """From slices to (pixels, labels, columns, place), batches of `largest` rows at most."""
    if isinstance(rows, Files):
        return _decode_files(rows, slices, largest)
    with tf.device("CPU"):
        # Over an aligned array this is a view, so neither memory nor a mapped file is copied.
        table = tf.nest.map_structure(tf.convert_to_tensor, (rows.inputs, rows.labels, rows.columns))

    def gather(place: Place, chosen: tf.Tensor) -> tuple:
        index = chosen + place[0] % rows.views * len(rows)
        return *tf.nest.map_structure(lambda column: tf.gather(column, index), table), place

    return slices.map(gather, num_parallel_calls=tf.data.AUTOTUNE)


def _decode_files(rows: Files, slices: tf.data.Dataset, largest: int) -> tf.data.Dataset:
    """Decodes single images in parallel across batches and epochs, then batches them.

    A smaller batch is filled up with blanks, which are cut off again: so one stream of images goes through the
    parallel map and the decoders don't stand still at the end of an epoch.
    """
    with tf.device("CPU"):
        others = tf.nest.map_structure(tf.constant, (rows.source.labels, rows.columns))
    read = rows.source.reader()
    blank = tf.zeros((rows.image_size, rows.image_size, rows.channels), tf.uint8)

    def images_of(_: Place, chosen: tf.Tensor) -> tf.data.Dataset:
        padding = largest - tf.shape(chosen)[0]
        return tf.data.Dataset.from_tensor_slices(tf.pad(chosen, [[0, padding]], constant_values=-1))

    def decode_one(index: tf.Tensor) -> tf.Tensor:
        return tf.cond(index < 0, lambda: blank, lambda: decode(read(index), rows.image_size, rows.channels))

    def join(pixels: tf.Tensor, place_and_chosen: Slice) -> tuple:
        place, chosen = place_and_chosen
        labels, columns = tf.nest.map_structure(lambda column: tf.gather(column, chosen), others)
        return pixels[: tf.shape(chosen)[0]], labels, columns, place

    pixels = slices.flat_map(images_of).map(decode_one, num_parallel_calls=tf.data.AUTOTUNE)
    pixels = pixels.batch(largest, drop_remainder=True, num_parallel_calls=tf.data.AUTOTUNE)
    return tf.data.Dataset.zip(pixels, slices).map(join, num_parallel_calls=tf.data.AUTOTUNE)
