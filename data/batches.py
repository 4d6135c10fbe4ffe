"""Batches as a function of (seed, step): any batch of any epoch can be made without the ones before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from data.augment import augmented, layers
from data.dataset import Dataset
from data.decode import decode
from data.shared_arrays import shared

# In addition to what the parallel calls hold.
_BATCHES_AHEAD = 2


class _Place(NamedTuple):
    """Where a slice of a batch is: the epoch, the step in it and the number of the slice, int64 scalars."""

    epoch: tf.Tensor
    step: tf.Tensor
    number: tf.Tensor


# A place, and the indices of the images of the slice there.
_Slice = tuple[_Place, tf.Tensor]


@dataclass(frozen=True)
class Shard:
    """The slices of each batch that this process makes, if several devices train on a batch together.

    Slice sizes differ by at most one. Some layers fail on an empty slice, so if the last batch has fewer images than
    slices, each slice is the whole batch. Random numbers are drawn for the whole batch, so the slices together equal
    the batch.

    Attributes:
        slices: number of slices of a batch.
        first: index of the first slice made here.
        count: number of slices made here, each a separate element, in order.
    """

    slices: int = 1
    first: int = 0
    count: int = 1

    def bounds(self, number: tf.Tensor, size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Where slice `number` begins and ends in a batch of `size` images."""
        is_cut = size >= self.slices
        start, stop = number * size // self.slices, (number + 1) * size // self.slices
        return tf.where(is_cut, start, 0), tf.where(is_cut, stop, size)

    def weights(self, number: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        """The weights of the slice's images: 1, or 1 / `slices` if every slice holds them."""
        start, stop = self.bounds(number, size)
        return tf.fill([stop - start], tf.where(size >= self.slices, 1.0, 1.0 / self.slices))


@dataclass(frozen=True, eq=False)
class Batches:
    """Batches `(inputs, targets)` of images or features, and how they are made.

    Attributes:
        inputs: images to decode when they are needed, or an array of pixels or features with a row per image, in
            memory or memory-mapped.
        labels: of an array: the labels, or the targets themselves, in any structure of arrays with a row per image.
        columns: of an array: further arrays by name, with a row per image, for making targets.
        batch_size: images per step; the last step of an epoch takes the rest.
        seed: determines order and augmentation.
        image_size: height and width of decoded images in px.
        channels: of decoded images, 3 for RGB or 1 for gray.
        augment: how `training` augments images: a level, `none`, `basic` or `full`, or Keras layers, see
            `data.augment`.
        view: None: `evaluation` doesn't augment. A number: it augments as `training` does in the epoch of that index.
        views: number of views of each image in an array; the rows of the second view follow those of the first, and
            so on. Each epoch shows the next view of each image.
        targets: makes the targets from `(pixels, labels, columns)` after augmentation; None uses the labels.
        shard: which slices of each batch to make; if there are several, the sample weights come third.
        service: `grpc://HOST:PORT` of a `tf.data` service that decodes and augments; its batches come in order of
            arrival. Arrays don't use it.
    """

    inputs: Dataset | np.ndarray
    labels: Any = None
    _: KW_ONLY
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    batch_size: int = 32
    seed: int = 0
    image_size: int = 0
    channels: int = 3
    augment: str | Sequence[keras.layers.Layer] = "none"
    view: int | None = None
    views: int = 1
    targets: Callable[[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]], Any] | None = None
    shard: Shard = Shard()
    service: str | None = None

    def __len__(self) -> int:
        """Number of images per epoch."""
        return len(self.inputs) // self.views

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches per epoch; the last may be smaller."""
        return -(-len(self) // self.batch_size)

    @property
    def is_decoded(self) -> bool:
        """Whether `inputs` is an array, not images to decode."""
        return not isinstance(self.inputs, Dataset)

    @property
    def dataset(self) -> Dataset:
        """The images to decode."""
        if not isinstance(self.inputs, Dataset):
            raise TypeError("`inputs` must be a data set of images to decode. Received: an array.")
        return self.inputs

    def training(self, first_epoch: int, last_epoch: int, first_step: int = 0) -> tf.data.Dataset:
        """Shuffled, augmented batches; each epoch shows every image once, in a different order.

        Args:
            first_epoch: index of the epoch to begin with.
            last_epoch: index of the epoch to stop before; with a service, the next one.
            first_step: step of the first epoch to begin with, to resume in the middle of it.
        """
        return self._dataset(range(first_epoch, last_epoch), first_step, is_shuffled=True)

    def evaluation(self, first_step: int = 0) -> tf.data.Dataset:
        """Every image once, in order, from batch `first_step` on; augmented only if `view` is set."""
        if self.view is None:
            return dataclasses.replace(self, augment="none", view=0).evaluation(first_step)
        return self._dataset(range(self.view, self.view + 1), first_step, is_shuffled=False)

    def _dataset(self, epochs: range, first_step: int, *, is_shuffled: bool) -> tf.data.Dataset:
        if self.service and not self.is_decoded:
            dataset = self._made_by_service(epochs, first_step, is_shuffled=is_shuffled)
        else:
            dataset = self._made(self._slices(epochs, first_step, is_shuffled=is_shuffled))
        total = (len(epochs) * self.steps_per_epoch - first_step) * self.shard.count
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(total)).prefetch(_BATCHES_AHEAD)
        return dataset.with_options(_options(self.is_decoded))

    def _made_by_service(self, epochs: range, first_step: int, *, is_shuffled: bool) -> tf.data.Dataset:
        from data.service import distributed

        if len(epochs) != 1:
            raise ValueError(f"With a service, batches must be of one epoch. Received: {epochs}.")
        epoch = tf.constant(epochs[0], tf.int64)
        slice_at = self._slicing(epoch, is_shuffled=is_shuffled)
        steps = tf.data.Dataset.range(first_step, self.steps_per_epoch)
        # The service would split a second range of the graph separately, so slices are made from a step's number.
        made = steps.interleave(
            lambda step: self._made(self._places(epoch, step).map(slice_at)),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=False,
        )
        return distributed(made, self.service or "")

    def _slices(self, epochs: range, first_step: int, *, is_shuffled: bool) -> tf.data.Dataset:
        """Every slice to make; the order of an epoch is computed once, for its first batch."""

        def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
            start = tf.where(epoch == epochs.start, tf.constant(first_step, tf.int64), 0)
            steps = tf.data.Dataset.range(start, self.steps_per_epoch)
            places = steps.flat_map(lambda step: self._places(epoch, step))
            return places.map(self._slicing(epoch, is_shuffled=is_shuffled))

        return tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(one_epoch)

    def _places(self, epoch: tf.Tensor, step: tf.Tensor) -> tf.data.Dataset:
        numbers = tf.data.Dataset.range(self.shard.first, self.shard.first + self.shard.count)
        return numbers.map(lambda number: _Place(epoch, step, number))

    def _slicing(self, epoch: tf.Tensor, *, is_shuffled: bool) -> Callable[..., _Slice]:
        """A function from a place to the slice there."""
        order = epoch_order(self.seed, epoch, len(self)) if is_shuffled else None

        def slice_at(place: _Place) -> _Slice:
            start, stop = self.shard.bounds(place.number, self._size_at(place))
            first = place.step * self.batch_size
            positions = tf.range(first + start, first + stop)
            return place, positions if order is None else tf.gather(order, positions)

        return slice_at

    def _size_at(self, place: _Place) -> tf.Tensor:
        """Number of images in the whole batch."""
        return tf.minimum(len(self) - place.step * self.batch_size, self.batch_size)

    def _made(self, slices: tf.data.Dataset) -> tf.data.Dataset:
        rows = self._gathered(slices) if self.is_decoded else self._decoded(slices)
        augmentation = layers(self.augment)

        def finish(inputs: tf.Tensor, labels: Any, columns: dict[str, tf.Tensor], place: _Place) -> tuple:
            size = self._size_at(place)
            if augmentation:
                seed = tf.stack([tf.constant(self.seed, tf.int64), place.epoch * self.steps_per_epoch + place.step])
                inputs = augmented(
                    inputs, augmentation, seed, self.batch_size, self.shard.bounds(place.number, size)[0]
                )
            batch = inputs, self.targets(inputs, labels, columns) if self.targets else labels
            return batch if self.shard.slices == 1 else (*batch, self.shard.weights(place.number, size))

        return rows.map(finish, num_parallel_calls=tf.data.AUTOTUNE)

    def _gathered(self, slices: tf.data.Dataset) -> tf.data.Dataset:
        """From slices to (inputs, labels, columns, place), gathered from the arrays."""
        with tf.device("CPU"):
            others = tf.nest.map_structure(tf.convert_to_tensor, (self.labels, self.columns))
        table = (shared(np.asarray(self.inputs)), *others)

        def gather(place: _Place, chosen: tf.Tensor) -> tuple:
            rows = chosen + place.epoch % self.views * len(self)
            return *tf.nest.map_structure(lambda column: tf.gather(column, rows), table), place

        return slices.map(gather, num_parallel_calls=tf.data.AUTOTUNE)

    def _decoded(self, slices: tf.data.Dataset) -> tf.data.Dataset:
        """From slices to (pixels, labels, columns, place): single images are decoded in parallel across all epochs.

        Smaller slices are padded with blanks, which are removed later: so one stream of images goes through the
        parallel map, and the decoders are not idle at the end of an epoch.
        """
        with tf.device("CPU"):
            others = tf.nest.map_structure(tf.constant, (self.dataset.labels, self.dataset.columns))
        read = self.dataset.reader()
        blank = tf.zeros((self.image_size, self.image_size, self.channels), tf.uint8)
        largest = self._largest_slice()

        def images_of(_: _Place, chosen: tf.Tensor) -> tf.data.Dataset:
            padding = largest - tf.shape(chosen)[0]
            return tf.data.Dataset.from_tensor_slices(tf.pad(chosen, [[0, padding]], constant_values=-1))

        def decode_one(index: tf.Tensor) -> tf.Tensor:
            return tf.cond(index < 0, lambda: blank, lambda: decode(read(index), self.image_size, self.channels))

        def join(pixels: tf.Tensor, place_and_chosen: _Slice) -> tuple:
            place, chosen = place_and_chosen
            labels, columns = tf.nest.map_structure(lambda column: tf.gather(column, chosen), others)
            return pixels[: tf.shape(chosen)[0]], labels, columns, place

        pixels = slices.flat_map(images_of).map(decode_one, num_parallel_calls=tf.data.AUTOTUNE)
        pixels = pixels.batch(largest, drop_remainder=True, num_parallel_calls=tf.data.AUTOTUNE)
        return tf.data.Dataset.zip(pixels, slices).map(join, num_parallel_calls=tf.data.AUTOTUNE)

    def _largest_slice(self) -> int:
        last = len(self) % self.batch_size
        return max(-(-self.batch_size // self.shard.slices), last if last < self.shard.slices else 0)


def epoch_order(seed: int, epoch: int | tf.Tensor, num_rows: int) -> tf.Tensor:
    """The rows of one epoch in the order in which it shows them, each once, as int64.

    `tf.random.experimental.index_shuffle` would not need the memory of the whole order, but its four rounds leave
    consecutive epochs correlated (0.8 at 53,334 rows), and of 65,537 or 262,145 rows it repeats one and omits one
    (TensorFlow 2.21; no upstream issue found).
    """
    with tf.device("CPU"):
        key = tf.stack([tf.constant(seed, tf.int64), tf.cast(epoch, tf.int64)])
        return tf.random.experimental.stateless_shuffle(tf.range(num_rows, dtype=tf.int64), key, alg="philox")


def _options(is_decoded: bool) -> tf.data.Options:
    """Without tf.data's autotuning; `AUTOTUNE` then means one call per core, at most 16.

    The tuning thread sleeps twice as long each time, up to a minute, and is often not woken at the end of a pass,
    which then lasts until it wakes by itself: 20.7 s instead of 12.3 s (TensorFlow 2.21; no upstream issue found).

    The optimizations copy every array that a pipeline holds, decoded images and features (TensorFlow 2.21).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    if is_decoded:
        options.experimental_optimization.apply_default_optimizations = False
    return options
