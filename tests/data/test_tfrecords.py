from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from data import load, tfds
from data.batches import Batches
from data.validation import scan
from errors import UserError
from tests.data import records
from tests.data.encoded import jpeg, png

IMAGES = [jpeg(quality=q) for q in (30, 60, 90)] + [png()]
LABELS, TEXTS = [2, 1, 2, 1], ["tabby cat", "dog", "tabby cat", "dog"]


@pytest.fixture
def shards(tmp_path: pathlib.Path) -> str:
    """Two shards of two images each; gives the pattern of their paths."""
    rows = [records.example(*row) for row in zip(IMAGES, LABELS, TEXTS, strict=True)]
    for number in (0, 1):
        records.write(tmp_path / f"train-{number:05d}-of-00002", rows[2 * number : 2 * number + 2])
    return str(tmp_path / "train-*")


@pytest.fixture
def in_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    records.leave_in_shards(monkeypatch)


def test_images_are_named_by_shard_and_number(shards: str) -> None:
    dataset = load(shards)
    assert dataset.addresses[1:3] == ("train-00000-of-00002/1", "train-00001-of-00002/0")
    assert dataset.class_names == ("dog", "tabby cat")
    assert dataset.labels.tolist() == [1, 0, 1, 0]
    assert [dataset.encoded(i) for i in range(4)] == IMAGES
    assert dataset.spans is None


def test_images_of_a_large_data_set_stay_in_their_shards(shards: str, in_shards: None) -> None:
    dataset = load(shards).take(np.array([3, 0, 1]))
    assert dataset.holds_paths
    assert [dataset.encoded(i) for i in range(3)] == [IMAGES[i] for i in (3, 0, 1)]
    read = tf.data.Dataset.range(3).map(dataset.reader()).as_numpy_iterator()
    assert list(read) == [IMAGES[i] for i in (3, 0, 1)]


def test_memory_and_shards_give_the_same_batches_and_digests(shards: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held = load(shards)
    records.leave_in_shards(monkeypatch)
    left = load(shards)
    (a, _), (b, _) = (
        next(iter(Batches(dataset, image_size=16, batch_size=4).evaluation())) for dataset in (held, left)
    )
    np.testing.assert_array_equal(a, b)
    assert scan(held) == scan(left)


def test_a_changed_shard_is_indexed_again(shards: str, in_shards: None) -> None:
    load(shards)
    path = shards.replace("*", "00001-of-00002")
    records.write(path, [records.example(IMAGES[3], 1, "dog"), records.example(IMAGES[0], 3, "owl")])
    dataset = load(shards)
    assert dataset.class_names == ("dog", "owl", "tabby cat")
    assert dataset.encoded(2) == IMAGES[3]
    assert scan(dataset)[2].width == 24


def test_without_names_the_numbers_are_the_classes(tmp_path: pathlib.Path) -> None:
    records.write(tmp_path / "a.tfrecord", [records.example(IMAGES[i], label) for i, label in enumerate((10, 9, 10))])
    dataset = load(str(tmp_path / "a.tfrecord"))
    assert dataset.class_names == ("9", "10")
    assert dataset.labels.tolist() == [1, 0, 1]


def test_a_damaged_image_is_told_from_a_damaged_shard(tmp_path: pathlib.Path, in_shards: None) -> None:
    rows = [records.example(IMAGES[0][:-200], 1), records.example(b"", 1), records.example(IMAGES[1], 2)]
    records.write(tmp_path / "a.tfrecord", rows)
    problems = [inspection.problem for inspection in scan(load(str(tmp_path / "a.tfrecord")))]
    assert problems[0] == "damaged or cut off"
    assert problems[1] and not problems[2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (records.example(b"x", None), "must hold one image/encoded and one image/class/label or image/class/text"),
        (b"\xffno example", "no tf.train.Example"),
    ],
    ids=["without a label", "no example"],
)
def test_other_examples_are_refused(tmp_path: pathlib.Path, content: bytes, message: str) -> None:
    records.write(tmp_path / "a.tfrecord", [content])
    with pytest.raises(UserError, match=message):
        load(str(tmp_path / "a.tfrecord"))


def test_compressed_cut_off_and_missing_shards_are_refused(tmp_path: pathlib.Path, shards: str) -> None:
    records.write(tmp_path / "zipped.tfrecord", [records.example(IMAGES[0], 1)], "GZIP")
    with pytest.raises(UserError, match="write it without compression"):
        load(str(tmp_path / "zipped.tfrecord"))
    whole = (tmp_path / "train-00000-of-00002").read_bytes()
    (tmp_path / "cut.tfrecord").write_bytes(whole[:-3])
    with pytest.raises(UserError, match="damaged or no TFRecord"):
        load(str(tmp_path / "cut.tfrecord"))
    with pytest.raises(UserError, match="matches none"):
        load(str(tmp_path / "no-*"))


def test_a_tfds_data_set_is_read_from_its_shards(shared: pathlib.Path, in_shards: None) -> None:
    dataset = load("cats_vs_dogs", str(shared / "tfds"))
    assert (len(dataset), dataset.holds_paths) == (300, True)
    # The shards have 200 and 100 images.
    assert [dataset.records[i].decode()[-5:] for i in (199, 200)] == ["00000", "00001"]
    assert dataset.addresses[200] == "cats_vs_dogs/train/200"
    assert tf.io.decode_jpeg(dataset.encoded(299)).shape[-1] == 3


def test_a_tfds_data_set_of_other_files_is_refused(shared: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Builder:
        name, data_path = "flowers", "/data/flowers/1.0.0"

        class info:  # noqa: N801
            class file_format:  # noqa: N801
                value = "array_record"

    with pytest.raises(UserError, match="array_record files.*--file_format=tfrecord"):
        tfds._check_format(Builder())
