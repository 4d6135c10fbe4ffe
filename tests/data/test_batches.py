from __future__ import annotations

import dataclasses
import pathlib
import zlib
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from data import folder, load
from data.augment import RandomGeometry
from data.batches import Batches, Shard
from data.cache import keep_decoded
from data.dataset import Dataset, as_records
from data.validation import validate
from tests.conftest import encode

ROWS = 23
BATCH = 5
# Recorded on 2026-11-21.
RECORDED_LABELS = [9, 27, 26, 28, 1, 11, 34]
RECORDED_PIXELS = 529559821
RECORDED_MEANS = [89.9287, 97.3626, 118.3109, 77.484, 74.9256, 92.0681, 94.6549]


def numbered(**how: Any) -> Batches:
    """Pixels that carry their own number in the first one."""
    pixels = np.zeros((ROWS, 8, 8, 3), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(ROWS)
    return Batches(pixels, np.arange(ROWS, dtype=np.int64), batch_size=BATCH, **how)


def noise(images: int = ROWS, **how: Any) -> Batches:
    """Random pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (images, 8, 8, 3)).astype(np.uint8)
    return Batches(pixels, np.arange(images), batch_size=BATCH, **how)


def labels_of(dataset: tf.data.Dataset) -> list[list[int]]:
    return [labels.numpy().tolist() for _, labels in dataset]


def assert_same(dataset: Iterable, wanted: Iterable) -> None:
    for batch, other in zip(dataset, wanted, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, batch, other)


def test_an_epoch_shows_every_row_once_and_the_next_one_in_another_order() -> None:
    batches = labels_of(numbered(seed=1).training(0, 2))
    per_epoch = numbered().steps_per_epoch
    first, second = sum(batches[:per_epoch], []), sum(batches[per_epoch:], [])
    assert sorted(first) == sorted(second) == list(range(ROWS))
    assert first != second
    assert first != sorted(first)
    assert [len(batch) for batch in batches[:per_epoch]] == [5, 5, 5, 5, 3]


def test_another_seed_gives_another_order() -> None:
    orders = [labels_of(numbered(seed=seed).training(0, 1)) for seed in (1, 2, 1)]
    assert orders[0] == orders[2] != orders[1]


def test_pixels_go_with_their_labels() -> None:
    for pixels, labels in numbered().training(0, 1):
        np.testing.assert_array_equal(pixels[:, 0, 0, 0], labels)


STOCK = "stock Keras layers"


def augmentation(name: str) -> str | list[keras.layers.Layer]:
    """A level; or layers of Keras, simple and composed ones, beside one of ours."""
    if name != STOCK:
        return name
    jitter = keras.layers.RandomColorJitter(brightness_factor=0.2, saturation_factor=(0.3, 0.6))
    flips = keras.Sequential([keras.layers.RandomFlip(), keras.layers.RandomRotation(0.1)])
    return [keras.layers.RandomContrast(0.5), RandomGeometry(), keras.layers.RandomZoom(0.3), jitter, flips]


@pytest.mark.parametrize("level", ["none", "basic", "full", STOCK])
@pytest.mark.parametrize(("epoch", "step"), [(0, 3), (1, 0), (1, 4)])
def test_starting_in_the_middle_gives_the_same_batches(level: str, epoch: int, step: int) -> None:
    whole = list(noise(seed=7, augment=augmentation(level)).training(0, 2))
    rest = noise(seed=7, augment=augmentation(level)).training(epoch, 2, first_step=step)
    assert_same(rest, whole[epoch * noise().steps_per_epoch + step :])


@pytest.mark.parametrize("level", ["full", STOCK])
def test_two_shards_are_the_batch(level: str) -> None:
    """Slices of two and three images, and those of a last batch of three."""
    batches = noise(seed=7, augment=augmentation(level))
    shards = [dataclasses.replace(batches, shard=Shard(2, first, 1)).training(0, 2) for first in (0, 1)]
    for (pixels, labels), *slices in zip(batches.training(0, 2), *shards, strict=True):
        np.testing.assert_array_equal(pixels, np.concatenate([part[0] for part in slices]))
        np.testing.assert_array_equal(labels, np.concatenate([part[1] for part in slices]))
        assert all((part[2].numpy() == 1).all() for part in slices)


def test_a_batch_with_fewer_images_than_slices_is_every_slice() -> None:
    batches = Batches(np.arange(9), np.arange(9), batch_size=7, shard=Shard(4, 1, 2)).evaluation()
    found = [(inputs.numpy().tolist(), weights.numpy().tolist()) for inputs, _, weights in batches]
    assert found == [([1, 2], [1, 1]), ([3, 4], [1, 1]), ([7, 8], [0.25, 0.25]), ([7, 8], [0.25, 0.25])]


def test_a_layer_of_keras_changes_each_image_otherwise_within_its_range() -> None:
    bright = Batches(np.full((40, 4, 4, 3), 100, np.uint8), np.zeros(40), batch_size=20)
    batches = dataclasses.replace(bright, augment=[keras.layers.RandomBrightness(0.2)])
    found = np.concatenate([pixels for pixels, _ in batches.training(0, 2)])
    changes = found[:, 0, 0, 0] - 100
    assert found.dtype == np.float32 and len(set(changes)) == 80
    assert -51 <= changes.min() < -30 and 30 < changes.max() <= 51
    np.testing.assert_array_equal(found, np.broadcast_to(found[:, :1, :1, :1], found.shape))


def test_the_batches_are_those_that_were_recorded() -> None:
    """A run that was stopped may be resumed by a newer program, on another machine."""
    digits = dataclasses.replace(load("digits").take(np.arange(53)), labels=np.arange(53))
    images = Batches(digits, image_size=12, batch_size=7, seed=3)
    pixels, labels = next(iter(images.training(1, 2, first_step=4)))
    assert labels.numpy().tolist() == RECORDED_LABELS
    assert zlib.crc32(pixels.numpy().tobytes()) == RECORDED_PIXELS
    pixels, labels = next(iter(dataclasses.replace(images, augment="full").training(1, 2, first_step=4)))
    assert labels.numpy().tolist() == RECORDED_LABELS
    # The last bits of a product of floats depend on the machine.
    np.testing.assert_allclose(pixels.numpy().mean(axis=(1, 2, 3)), RECORDED_MEANS, atol=1e-3)


@pytest.mark.parametrize("level", ["none", "full"])
def test_images_and_their_decoded_array_give_the_same_batches(image_folder: pathlib.Path, level: str) -> None:
    dataset = folder.load(str(image_folder))
    images = Batches(dataset, image_size=16, batch_size=7, seed=3, augment=level)
    decoded = np.concatenate([pixels for pixels, _ in images.evaluation()])
    kept = dataclasses.replace(images, inputs=decoded, labels=dataset.labels)
    assert_same(images.training(0, 2, first_step=2), kept.training(0, 2, first_step=2))


def test_evaluation_counts_every_image_once_in_order(image_folder: pathlib.Path) -> None:
    dataset = folder.load(str(image_folder))
    batches = labels_of(Batches(dataset, image_size=16, batch_size=7).evaluation())
    assert sum(batches, []) == dataset.labels.tolist()
    assert [len(batch) for batch in batches] == [7, 7, 7, 7, 7, 5]


def test_evaluation_is_never_augmented() -> None:
    for pixels, labels in numbered(augment="full").evaluation():
        np.testing.assert_array_equal(pixels, numbered().inputs[labels.numpy()])


def test_targets_are_computed_after_augmentation() -> None:
    def mean(pixels: tf.Tensor, labels: tf.Tensor, columns: dict[str, tf.Tensor]) -> tf.Tensor:
        return tf.reduce_mean(tf.cast(pixels, tf.float32), axis=(1, 2, 3))

    bright = Batches(np.full((4, 8, 8, 3), 100, np.uint8), np.zeros(4, np.int64), augment="full", targets=mean)
    for pixels, targets in bright.training(0, 1):
        np.testing.assert_allclose(targets, pixels.numpy().mean(axis=(1, 2, 3)), rtol=1e-5)
        assert np.abs(targets.numpy() - 100).max() > 1


def test_columns_of_targets_are_shuffled_together() -> None:
    targets = {"class": np.arange(ROWS), "brightness": np.arange(ROWS) * 2.0}
    for pixels, found in dataclasses.replace(numbered(), labels=targets).training(0, 1):
        np.testing.assert_array_equal(found["class"], pixels[:, 0, 0, 0])
        np.testing.assert_array_equal(found["brightness"], 2.0 * found["class"].numpy())


def test_the_length_is_known() -> None:
    assert numbered().training(0, 3, first_step=2).cardinality() == 13
    assert numbered().evaluation().cardinality() == 5
    assert numbered().evaluation(first_step=3).cardinality() == 2


def test_the_end_of_a_pass_waits_for_no_tuning_thread(image_folder: pathlib.Path) -> None:
    """Which would delay it by as much as the pass has lasted, now and then: too seldom for a test of time."""
    images = Batches(folder.load(str(image_folder)), image_size=16)
    for batches in (images.training(0, 1), images.evaluation()):
        assert batches.options().autotune.enabled is False


def test_a_single_row() -> None:
    assert labels_of(noise(1).training(0, 2)) == [[0], [0]]


def test_each_view_is_another_look_and_always_the_same_one() -> None:
    looks = [next(iter(noise(5, seed=1, augment="full", view=view).evaluation()))[0].numpy() for view in (0, 1, 0)]
    np.testing.assert_array_equal(looks[0], looks[2])
    assert np.abs(looks[0] - looks[1]).max() > 1


def test_an_epoch_shows_one_view_of_each_row_and_the_next_epoch_the_next() -> None:
    features = Batches(np.arange(3 * ROWS), np.tile(np.arange(ROWS), 3), views=3, batch_size=BATCH)
    assert len(features) == ROWS
    batches = list(features.training(0, 4))
    for epoch in range(4):
        mine = batches[5 * epoch : 5 * epoch + 5]
        inputs = np.concatenate([inputs for inputs, _ in mine])
        np.testing.assert_array_equal(np.sort(inputs), np.arange(ROWS) + epoch % 3 * ROWS)
        np.testing.assert_array_equal(inputs % ROWS, np.concatenate([labels for _, labels in mine]))


@pytest.mark.parametrize("kept", [True, False])
def test_targets_are_made_from_columns_too(kept: bool) -> None:
    """Numbers and text, of images that are decoded when needed and of an array in memory."""
    pixels = np.repeat(np.arange(ROWS, dtype=np.uint8), 16 * 3).reshape(ROWS, 4, 4, 3)
    columns = {"age": np.arange(ROWS) * 3.0, "town": as_records([f"town {i}" for i in range(ROWS)])}
    records = as_records([encode(image, "PNG") for image in pixels])
    dataset = Dataset("x", tuple(map(str, range(ROWS))), records, np.arange(ROWS), ("a", "b"), False, columns=columns)

    def target(pixels: tf.Tensor, labels: tf.Tensor, columns: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {"label": labels, **columns}

    batches = Batches(dataset, image_size=4, batch_size=BATCH, seed=1, targets=target)
    if kept:
        batches = dataclasses.replace(batches, inputs=pixels, labels=dataset.labels, columns=columns)
    seen = []
    for images, targets in batches.training(0, 1):
        numbers = images[:, 0, 0, 0].numpy()
        seen += numbers.tolist()
        np.testing.assert_array_equal(targets["label"], numbers)
        np.testing.assert_array_equal(targets["age"], numbers * 3.0)
        assert targets["town"].numpy().tolist() == [f"town {i}".encode() for i in numbers]
    assert sorted(seen) == list(range(ROWS)) and seen != sorted(seen)


@pytest.mark.parametrize("mode", ["disk", "memory"])
def test_decoded_images_are_not_copied(mode: str) -> None:
    """66 MB here; of a million images there would be no room for a copy."""
    digits = Batches(validate(load("digits")), image_size=192, channels=1)
    kept = keep_decoded(digits, mode)
    before = _own_memory()
    for _ in kept.training(0, 1):
        assert _own_memory() - before < kept.inputs.nbytes / 2


def _own_memory() -> int:
    """Bytes of this process that belong to no file."""
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])
