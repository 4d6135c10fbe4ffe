"""Batches as a function of (seed, step): any batch of any epoch can be made without the ones before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from data.augment import augmented, layers
from data.dataset import Dataset
from data.decode import decode

# What the parallel calls have ready comes on top.
_BATCHES_AHEAD = 2

# In bytes: TensorFlow can use an array in place that begins at a multiple of it.
ALIGNMENT = 64

# Of a slice of a batch, int64 scalars: epoch, step in it, number of the slice. And the indices of its images.
_Place = tuple[tf.Tensor, tf.Tensor, tf.Tensor]
_Slice = tuple[_Place, tf.Tensor]


@dataclass(frozen=True)
class Shard:
    """The slices of every batch that this process makes, where several devices train on a batch together.

    The sizes of a batch's slices differ by one at most. Some layers fail on a slice without images, so of a last batch
    with fewer images than slices, every slice is all of it. Every random number is that of the whole batch, so the
    slices together are the batch.

    Attributes:
        slices: how many a batch is cut into.
        first: index of the first slice that is made here.
        count: how many are made here, each as an element of its own, in order.
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
        """How often each image of the slice counts: once, or less where every slice holds it."""
        start, stop = self.bounds(number, size)
        return tf.fill([stop - start], tf.where(size >= self.slices, 1.0, 1.0 / self.slices))


@dataclass(frozen=True, eq=False)
class Batches:
    """Batches of images, or of features, and how they are made: `(inputs, targets)`.

    Attributes:
        inputs: images to decode whenever they are needed, or an array with a row per image, of pixels or features,
            in memory or in a file mapped into it.
        labels: of an array: the labels, or the targets themselves, in any structure of arrays with a row per image.
        columns: of an array: further values of the images by name, arrays too, that targets are made from.
        batch_size: images per step; the last step of an epoch takes what is left.
        seed: decides order and augmentation.
        image_size: height and width of decoded images in px.
        channels: of decoded images, 3 for RGB or 1 for gray.
        augment: what `training` does to images: a level, `none`, `basic` or `full`, or Keras layers, see
            `data.augment`.
        view: `evaluation` shows images as they are; or, with a number, as `training` does in the epoch of that index.
        views: how many views of each image an array holds; the rows of the second view follow those of the first, and
            so on. An epoch shows one view of each image, the next epoch the next one.
        targets: makes the targets from `(pixels, labels, columns)` after augmentation; None gives the labels.
        shard: which slices of each batch to make; where a batch is cut, the images' weights come third.
        service: `grpc://HOST:PORT` of a `tf.data` service that decodes and augments; its batches come in the order of
            their arrival. Arrays don't need it.
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
        """How many images an epoch shows."""
        return len(self.inputs) // self.views

    @property
    def steps_per_epoch(self) -> int:
        """How many batches show each image once; the last may be smaller."""
        return -(-len(self) // self.batch_size)

    @property
    def is_decoded(self) -> bool:
        """Whether they come from an array, and not from images to decode."""
        return not isinstance(self.inputs, Dataset)

    @property
    def dataset(self) -> Dataset:
        """The images to decode."""
        if not isinstance(self.inputs, Dataset):
            raise TypeError("`inputs` must be a data set of images to decode. Received: an array.")
        return self.inputs

    def training(self, first_epoch: int, last_epoch: int, first_step: int = 0) -> tf.data.Dataset:
        """Shuffled, augmented batches; each epoch shows every image once, in an order of its own.

        Args:
            first_epoch: index of the epoch to begin with.
            last_epoch: index of the epoch to stop before; with a service, the next one.
            first_step: step in the first epoch to begin with, after a run was stopped in the middle of it.
        """
        return self._dataset(range(first_epoch, last_epoch), first_step, is_shuffled=True)

    def evaluation(self, first_step: int = 0) -> tf.data.Dataset:
        """Every image once, in order, from batch `first_step` on; nothing random unless `view` says so."""
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
            raise ValueError(f"With a service, an epoch must be asked for alone. Received: {epochs}.")
        epoch = tf.constant(epochs[0], tf.int64)
        slice_at = self._slicing(epoch, is_shuffled=is_shuffled)
        steps = tf.data.Dataset.range(first_step, self.steps_per_epoch)
        # A second range in the graph would be given out apart from the first, so slices are made from a step's number.
        made = steps.interleave(
            lambda step: self._made(self._places(epoch, step).map(slice_at)),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=False,
        )
        return distributed(made, self.service or "")

    def _slices(self, epochs: range, first_step: int, *, is_shuffled: bool) -> tf.data.Dataset:
        """Every slice to make; the order of an epoch is computed once, when its first batch is asked for."""

        def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
            start = tf.where(epoch == epochs.start, tf.constant(first_step, tf.int64), 0)
            steps = tf.data.Dataset.range(start, self.steps_per_epoch)
            places = steps.flat_map(lambda step: self._places(epoch, step))
            return places.map(self._slicing(epoch, is_shuffled=is_shuffled))

        return tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(one_epoch)

    def _places(self, epoch: tf.Tensor, step: tf.Tensor) -> tf.data.Dataset:
        numbers = tf.data.Dataset.range(self.shard.first, self.shard.first + self.shard.count)
        return numbers.map(lambda number: (epoch, step, number))

    def _slicing(self, epoch: tf.Tensor, *, is_shuffled: bool) -> Callable[..., _Slice]:
        """A function from a place to the slice there."""
        order = epoch_order(self.seed, epoch, len(self)) if is_shuffled else None

        def slice_at(*place: tf.Tensor) -> _Slice:
            start, stop = self.shard.bounds(place[2], self._size_at(place))
            first = place[1] * self.batch_size
            positions = tf.range(first + start, first + stop)
            return place, positions if order is None else tf.gather(order, positions)

        return slice_at

    def _size_at(self, place: _Place) -> tf.Tensor:
        """How many images the whole batch holds."""
        return tf.minimum(len(self) - place[1] * self.batch_size, self.batch_size)

    def _made(self, slices: tf.data.Dataset) -> tf.data.Dataset:
        rows = self._gathered(slices) if self.is_decoded else self._decoded(slices)
        level = layers(self.augment)

        def finish(inputs: tf.Tensor, labels: Any, columns: dict[str, tf.Tensor], place: _Place) -> tuple:
            size = self._size_at(place)
            if level:
                seed = tf.stack([tf.constant(self.seed, tf.int64), place[0] * self.steps_per_epoch + place[1]])
                inputs = augmented(inputs, level, seed, self.batch_size, self.shard.bounds(place[2], size)[0])
            batch = inputs, self.targets(inputs, labels, columns) if self.targets else labels
            return batch if self.shard.slices == 1 else (*batch, self.shard.weights(place[2], size))

        return rows.map(finish, num_parallel_calls=tf.data.AUTOTUNE)

    def _gathered(self, slices: tf.data.Dataset) -> tf.data.Dataset:
        """From slices to (inputs, labels, columns, place), out of the arrays."""
        with tf.device("CPU"):
            others = tf.nest.map_structure(tf.convert_to_tensor, (self.labels, self.columns))
        table = (_shared(np.asarray(self.inputs)), *others)

        def gather(place: _Place, chosen: tf.Tensor) -> tuple:
            rows = chosen + place[0] % self.views * len(self)
            return *tf.nest.map_structure(lambda column: tf.gather(column, rows), table), place

        return slices.map(gather, num_parallel_calls=tf.data.AUTOTUNE)

    def _decoded(self, slices: tf.data.Dataset) -> tf.data.Dataset:
        """From slices to (pixels, labels, columns, place): single images are decoded in parallel across all epochs.

        A smaller slice is filled up with blanks, which are cut off again: so one stream of images goes through the
        parallel map and the decoders don't stand still at the end of an epoch.
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

    `tf.random.experimental.index_shuffle` would give single places without the memory of the whole order, but its four
    rounds leave consecutive epochs correlated (0.8 at 53,334 rows), and of 65,537 rows, or 262,145, it shows one twice
    and one never (TensorFlow 2.21; no upstream issue found).
    """
    with tf.device("CPU"):
        key = tf.stack([tf.constant(seed, tf.int64), tf.cast(epoch, tf.int64)])
        return tf.random.experimental.stateless_shuffle(tf.range(num_rows, dtype=tf.int64), key, alg="philox")


class _Exportable:
    """An array that NumPy gives away by DLPack though it can't be written to, such as a mapped file."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array  # Keeps its memory.
        self.__array_interface__ = {**array.__array_interface__, "data": (array.ctypes.data, False)}


def _shared(array: np.ndarray) -> tf.Tensor:
    """A tensor in the memory of an array of numbers, mapped or not, where that is aligned.

    `tf.convert_to_tensor` makes one copy of an array, and two of a mapped one (tensorflow#53665, as of 2.21).
    """
    array = np.ascontiguousarray(array)
    if array.ctypes.data % ALIGNMENT or array.dtype.kind not in "uif":
        with tf.device("CPU"):
            return tf.convert_to_tensor(array)
    return tf.experimental.dlpack.from_dlpack(np.asarray(_Exportable(array)).__dlpack__())


def _options(is_decoded: bool) -> tf.data.Options:
    """Without tf.data's own tuning; `AUTOTUNE` then stands for a call a core, 16 at most.

    The thread that tunes sleeps twice as long each time, up to a minute, and is often not woken at the end of a pass,
    which then lasts until it wakes by itself: 20.7 s in place of 12.3 s (TensorFlow 2.21; no upstream issue found).

    The optimizations copy every array that a pipeline holds, decoded images and features (TensorFlow 2.21).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    if is_decoded:
        options.experimental_optimization.apply_default_optimizations = False
    return options
