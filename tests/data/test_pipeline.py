from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from data import folder
from data.pipeline import Files, Steps, Table, View, ordered_batches, steps_per_epoch, training_batches
from data.source import Source, as_records
from tests.conftest import encode

ROWS = 23
BATCH = 5


def table(rows: int = ROWS) -> Table:
    """Rows that carry their own number in the first pixel."""
    pixels = np.zeros((rows, 8, 8, 3), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(rows)
    return Table(pixels, np.arange(rows, dtype=np.int64))


def labels_of(dataset: tf.data.Dataset) -> list[list[int]]:
    return [labels.numpy().tolist() for _, labels in dataset]


def test_an_epoch_shows_every_row_once_and_the_next_one_in_another_order() -> None:
    batches = labels_of(training_batches(table(), Steps(BATCH, seed=1, first_epoch=0, last_epoch=2)))
    per_epoch = steps_per_epoch(table(), BATCH)
    first, second = sum(batches[:per_epoch], []), sum(batches[per_epoch:], [])
    assert sorted(first) == sorted(second) == list(range(ROWS))
    assert first != second
    assert first != sorted(first)
    assert [len(batch) for batch in batches[:per_epoch]] == [5, 5, 5, 5, 3]


def test_another_seed_gives_another_order() -> None:
    orders = [labels_of(training_batches(table(), Steps(BATCH, seed, 0, 1))) for seed in (1, 2, 1)]
    assert orders[0] == orders[2] != orders[1]


def test_pixels_go_with_their_labels() -> None:
    for pixels, labels in training_batches(table(), Steps(BATCH, 0, 0, 1)):
        np.testing.assert_array_equal(pixels[:, 0, 0, 0], labels)


@pytest.mark.parametrize("level", ["none", "basic", "full"])
@pytest.mark.parametrize(("epoch", "step"), [(0, 3), (1, 0), (1, 4)])
def test_starting_in_the_middle_gives_the_same_batches(level: str, epoch: int, step: int) -> None:
    whole = list(training_batches(table(), Steps(BATCH, 7, 0, 2), level=level))
    rest = list(training_batches(table(), Steps(BATCH, 7, epoch, 2, first_step=step), level=level))
    skipped = epoch * steps_per_epoch(table(), BATCH) + step
    assert len(rest) == len(whole) - skipped
    for (pixels, labels), (wanted_pixels, wanted_labels) in zip(rest, whole[skipped:], strict=True):
        np.testing.assert_array_equal(pixels, wanted_pixels)
        np.testing.assert_array_equal(labels, wanted_labels)


@pytest.mark.parametrize("level", ["none", "full"])
def test_files_and_their_decoded_table_give_the_same_batches(image_folder: pathlib.Path, level: str) -> None:
    files = Files(folder.load(str(image_folder)), 16, 3)
    decoded = np.concatenate([pixels for pixels, _ in ordered_batches(files, 7)])
    kept = Table(decoded, files.source.labels)
    steps = Steps(batch_size=7, seed=3, first_epoch=0, last_epoch=2, first_step=2)
    pairs = zip(training_batches(files, steps, level=level), training_batches(kept, steps, level=level), strict=True)
    for (pixels, labels), (wanted_pixels, wanted_labels) in pairs:
        np.testing.assert_array_equal(pixels, wanted_pixels)
        np.testing.assert_array_equal(labels, wanted_labels)


def test_evaluation_counts_every_image_once_in_order(image_folder: pathlib.Path) -> None:
    source = folder.load(str(image_folder))
    batches = labels_of(ordered_batches(Files(source, 16, 3), 7))
    assert sum(batches, []) == source.labels.tolist()
    assert [len(batch) for batch in batches] == [7, 7, 7, 7, 7, 5]


def test_evaluation_is_never_augmented() -> None:
    for pixels, labels in ordered_batches(table(), BATCH):
        np.testing.assert_array_equal(pixels, table().inputs[labels.numpy()])


def test_targets_are_computed_after_augmentation() -> None:
    bright = Table(np.full((4, 8, 8, 3), 100, np.uint8), np.zeros(4, np.int64))

    def mean(pixels: tf.Tensor, labels: tf.Tensor, columns: dict[str, tf.Tensor]) -> tf.Tensor:
        return tf.reduce_mean(tf.cast(pixels, tf.float32), axis=(1, 2, 3))

    for pixels, targets in training_batches(bright, Steps(4, 0, 0, 1), level="full", targets=mean):
        np.testing.assert_allclose(targets, pixels.numpy().mean(axis=(1, 2, 3)), rtol=1e-5)
        assert np.abs(targets.numpy() - 100).max() > 1


def test_columns_of_targets_are_shuffled_together() -> None:
    rows = Table(table().inputs, {"class": np.arange(ROWS), "brightness": np.arange(ROWS) * 2.0})
    for pixels, targets in training_batches(rows, Steps(BATCH, 0, 0, 1)):
        np.testing.assert_array_equal(targets["class"], pixels[:, 0, 0, 0])
        np.testing.assert_array_equal(targets["brightness"], 2.0 * targets["class"].numpy())


def test_the_length_is_known() -> None:
    assert training_batches(table(), Steps(BATCH, 0, 0, 3, first_step=2)).cardinality() == 13
    assert ordered_batches(table(), BATCH).cardinality() == 5


def test_the_end_of_a_pass_waits_for_no_tuning_thread(image_folder: pathlib.Path) -> None:
    """Which would delay it by as much as the pass has lasted, now and then: too seldom for a test of time."""
    files = Files(folder.load(str(image_folder)), 16, 3)
    for batches in (training_batches(files, Steps(BATCH, 0, 0, 1)), ordered_batches(files, BATCH)):
        assert batches.options().autotune.enabled is False


def test_a_single_row() -> None:
    assert labels_of(training_batches(table(1), Steps(BATCH, 0, 0, 2))) == [[0], [0]]


def test_each_view_is_another_look_and_always_the_same_one() -> None:
    bright = Table(np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8), np.zeros(5, np.int64))
    looks = [next(iter(ordered_batches(bright, 5, view=View("full", 1, number))))[0].numpy() for number in (0, 1, 0)]
    np.testing.assert_array_equal(looks[0], looks[2])
    assert np.abs(looks[0] - looks[1]).max() > 1


def test_an_epoch_shows_one_view_of_each_row_and_the_next_epoch_the_next() -> None:
    rows = Table(np.arange(3 * ROWS), np.tile(np.arange(ROWS), 3), views=3)
    assert len(rows) == ROWS
    batches = list(training_batches(rows, Steps(BATCH, 0, 0, 4)))
    for epoch in range(4):
        mine = batches[5 * epoch : 5 * epoch + 5]
        inputs = np.concatenate([inputs for inputs, _ in mine])
        np.testing.assert_array_equal(np.sort(inputs), np.arange(ROWS) + epoch % 3 * ROWS)
        np.testing.assert_array_equal(inputs % ROWS, np.concatenate([labels for _, labels in mine]))


@pytest.mark.parametrize("kept", [True, False])
def test_targets_are_made_from_columns_too(tmp_path: pathlib.Path, kept: bool) -> None:
    """Numbers and text, of files that are decoded when needed and of a table in memory."""
    pixels = np.repeat(np.arange(ROWS, dtype=np.uint8), 16 * 3).reshape(ROWS, 4, 4, 3)
    columns = {"age": np.arange(ROWS) * 3.0, "town": as_records([f"town {i}" for i in range(ROWS)])}
    records = as_records([encode(image, "PNG") for image in pixels])
    source = Source("x", tuple(map(str, range(ROWS))), records, np.arange(ROWS), ("a", "b"), False, columns=columns)
    rows = Table(pixels, np.arange(ROWS), columns=columns) if kept else Files(source, 4, 3)

    def target(pixels: tf.Tensor, labels: tf.Tensor, columns: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {"label": labels, **columns}

    seen = []
    for images, targets in training_batches(rows, Steps(BATCH, 1, 0, 1), targets=target):
        numbers = images[:, 0, 0, 0].numpy()
        seen += numbers.tolist()
        np.testing.assert_array_equal(targets["label"], numbers)
        np.testing.assert_array_equal(targets["age"], numbers * 3.0)
        assert targets["town"].numpy().tolist() == [f"town {i}".encode() for i in numbers]
    assert sorted(seen) == list(range(ROWS)) and seen != sorted(seen)
