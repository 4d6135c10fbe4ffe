"""The order of an epoch against what chance would do, at the sizes of real data sets."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest

from data.batches import Batches, epoch_order

SIZES = [240, 1_920, 18_610, 53_334, 1_281_167]
# Where a block cipher of 16 or 20 bits ends: the last row needs one bit more.
EDGES = [1, 2, 65_536, 65_537, 262_145]
SEEDS = [0, 1, 2, 2026, 2**31 - 1, 2**31]
BATCH = 32
CLASSES = 10


@functools.cache
def order(seed: int, epoch: int, num_rows: int) -> np.ndarray:
    return epoch_order(seed, epoch, num_rows).numpy()


def orders(num_rows: int) -> list[np.ndarray]:
    """A few for the largest data set, many for the others; neighbours differ by one in the seed or the epoch."""
    epochs = range(4) if num_rows > 100_000 else range(51)
    return [order(0, epoch, num_rows) for epoch in epochs] + [order(seed, 0, num_rows) for seed in SEEDS[1:]]


def classes(num_rows: int) -> np.ndarray:
    """The class of each row, where the rows are sorted by class, as in every image folder."""
    return np.arange(num_rows) * CLASSES // num_rows


@pytest.mark.parametrize("num_rows", SIZES + EDGES)
def test_an_epoch_shows_every_row_once(num_rows: int) -> None:
    for seed, epoch in ((0, 0), (1, 0), (0, 13), (2**31, 50)):
        np.testing.assert_array_equal(np.sort(order(seed, epoch, num_rows)), np.arange(num_rows))


@pytest.mark.parametrize("num_rows", SIZES)
def test_epochs_seeds_and_stored_order_are_uncorrelated(num_rows: int) -> None:
    found = [np.arange(num_rows), *orders(num_rows)]
    pairs = [*itertools.pairwise(found), *((found[0], other) for other in found[1:])]
    # The rank correlation of two independent orders has mean 0 and variance 1 / (n - 1).
    deviations = [np.corrcoef(a, b)[0, 1] * np.sqrt(num_rows - 1) for a, b in pairs]
    assert np.abs(deviations).max() < 5
    assert 0.3 < np.var(deviations) < 2


@pytest.mark.parametrize("num_rows", SIZES)
def test_neighbours_in_an_epoch_are_unrelated(num_rows: int) -> None:
    deviations = [np.corrcoef(found[:-1], found[1:])[0, 1] * np.sqrt(num_rows) for found in orders(num_rows)]
    assert np.abs(deviations).max() < 5
    # One pair of stored neighbours stays together an epoch, by chance, whatever the size.
    together = [np.sum(np.abs(np.diff(found)) == 1) for found in orders(num_rows)]
    assert max(together) < 12
    assert 1 < np.mean(together) < 3


@pytest.mark.parametrize("num_rows", SIZES)
def test_batches_hold_as_many_of_each_class_as_chance_would(num_rows: int) -> None:
    """Mean and variance of the counts are those of the hypergeometric law, over epochs and over batches."""
    steps = num_rows // BATCH
    scores = []
    for found in orders(num_rows):
        drawn = classes(num_rows)[found[: steps * BATCH]].reshape(steps, BATCH)
        share = np.bincount(classes(num_rows)) / num_rows
        counts = np.stack([(drawn == number).sum(1) for number in range(CLASSES)], axis=1)
        variance = BATCH * share * (1 - share) * (num_rows - BATCH) / (num_rows - 1)
        scores.append((counts - BATCH * share) / np.sqrt(variance))
    deviations = np.stack(scores)
    assert np.abs(deviations).max() < 8
    # At the same step of every epoch, and over all: `n` scores of mean 0 and variance 1.
    assert np.abs(deviations.mean(0) * np.sqrt(len(deviations))).max() < 6
    assert np.mean(deviations**2) == pytest.approx(1, abs=5 * np.sqrt(2 / deviations[..., 0].size))


@pytest.mark.parametrize("num_rows", SIZES)
def test_two_epochs_show_the_same_class_at_the_same_place_as_often_as_chance_would(num_rows: int) -> None:
    found = [classes(num_rows)[rows] for rows in orders(num_rows)]
    same = [np.mean(one == other) for one, other in itertools.pairwise(found)]
    bound = 5 * np.sqrt(0.09 / num_rows)
    assert same == pytest.approx([1 / CLASSES] * len(same), abs=bound)


def test_the_batches_of_a_training_are_in_this_order() -> None:
    batches = Batches(np.arange(240), np.arange(240), batch_size=BATCH, seed=3).training(1, 3, first_step=2)
    wanted = np.concatenate([order(3, 1, 240)[2 * BATCH :], order(3, 2, 240)])
    np.testing.assert_array_equal(np.concatenate([inputs for inputs, _ in batches]), wanted)
