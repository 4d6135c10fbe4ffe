from __future__ import annotations

import hashlib

import numpy as np
import pytest

from data.dataset import Dataset, as_records
from data.splits import Fractions, assign
from errors import UserError

STANDARD = Fractions(0.8, 0.1, 0.1)


def dataset(counts: tuple[int, ...], names: list[str], is_test: np.ndarray | None = None) -> Dataset:
    labels = np.repeat(np.arange(len(counts)), counts)
    return Dataset(
        name="made",
        addresses=tuple(f"{i}.jpg" for i in range(len(labels))),
        records=as_records([b"" for _ in labels]),
        labels=labels,
        class_names=tuple(f"class {i}" for i in range(len(counts))),
        holds_paths=True,
        is_test=is_test,
        digests=tuple(names),
    )


def digests(count: int, first: int = 0) -> list[str]:
    return [hashlib.sha256(str(i).encode()).hexdigest() for i in range(first, first + count)]


def sizes(splits: np.ndarray) -> dict[str, int]:
    return {split: int((splits == split).sum()) for split in ("train", "val", "test", "unused")}


def test_shares_are_exact_and_stratified() -> None:
    made = dataset((100, 50), digests(150))
    splits = assign(made, STANDARD)
    assert sizes(splits) == {"train": 120, "val": 15, "test": 15, "unused": 0}
    assert (made.labels[splits == "test"] == 0).sum() == 10


def test_the_order_of_the_files_does_not_matter() -> None:
    shuffled = np.random.default_rng(0).permutation(150)
    made = dataset((100, 50), digests(150))
    splits = assign(made, STANDARD)
    again = assign(made.take(shuffled), STANDARD)
    np.testing.assert_array_equal(again, splits[shuffled])


def test_fewer_training_images_leave_the_other_splits_as_they_are() -> None:
    large = assign(dataset((100, 100), digests(200)), STANDARD)
    small = assign(dataset((100, 100), digests(200)), Fractions(0.1, 0.1, 0.1))
    assert sizes(small) == {"train": 20, "val": 20, "test": 20, "unused": 140}
    for split in ("val", "test"):
        np.testing.assert_array_equal(small == split, large == split)
    assert np.all(large[small == "train"] == "train")


def test_a_new_image_moves_hardly_any_other() -> None:
    before = assign(dataset((200, 200), digests(400)), STANDARD)
    names = digests(400)
    after = assign(dataset((201, 200), [names[0], *digests(1, 1000), *names[1:]]), STANDARD)
    assert (np.delete(after, 1) != before).sum() <= 2


@pytest.mark.parametrize("copies", [2, 5])
def test_identical_images_stay_together(copies: int) -> None:
    names = digests(60)
    splits = assign(dataset((60 * copies, 30), names * copies + digests(30, 100)), STANDARD)
    for first in range(60):
        assert len(set(splits[first : 60 * copies : 60])) == 1


def test_identical_images_in_two_classes_stay_together() -> None:
    splits = assign(dataset((60, 60), digests(60) * 2), STANDARD)
    np.testing.assert_array_equal(splits[:60], splits[60:])


def test_the_publishers_test_split_is_kept_and_its_copies_are_not_trained_on() -> None:
    is_test = np.arange(120) >= 100
    names = digests(119) + digests(1)
    splits = assign(dataset((60, 60), names, is_test), STANDARD)
    np.testing.assert_array_equal(splits == "test", is_test)
    assert splits[0] == "unused", "its copy is the last image of the test split"
    assert sizes(splits)["val"] == round(59 / 9) + round(40 / 9)


def test_a_publishers_test_split_leaves_room_for_training() -> None:
    with pytest.raises(UserError, match="train split must hold images of each class"):
        assign(dataset((60, 60), digests(120), np.arange(120) >= 100), Fractions(0, 0, 1))


def test_small_classes_are_in_every_split() -> None:
    splits = assign(dataset((4, 4), digests(8)), STANDARD)
    assert sizes(splits) == {"train": 4, "val": 2, "test": 2, "unused": 0}


def test_too_few_images_are_an_error_that_says_what_to_do() -> None:
    with pytest.raises(UserError, match=r"train split must hold images of each class.*class 1.*`train_fraction`"):
        assign(dataset((20, 2), digests(22)), STANDARD)


def test_the_split_is_the_same_on_every_machine() -> None:
    """Stored once; a change of it makes every earlier run incomparable."""
    splits = assign(dataset((30, 30), digests(60)), STANDARD)
    assert hashlib.sha256(",".join(splits).encode()).hexdigest()[:8] == "dd6bf926"
