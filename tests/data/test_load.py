from __future__ import annotations

import pathlib
import time

import numpy as np
import pytest
import tensorflow as tf

from data import catalog
from data.load import load
from errors import UserError


def test_digits_need_no_download() -> None:
    source = load("digits")
    assert len(source) == 1797
    assert source.class_names == tuple("0123456789")
    pixels = tf.io.decode_png(source.encoded(0)).numpy()
    assert pixels.shape == (8, 8, 1)
    assert pixels.max() <= 255 and pixels.max() > 200


def test_a_folder_of_classes(image_folder: pathlib.Path) -> None:
    source = load(str(image_folder))
    assert source.class_names == ("lying", "upright")
    assert source.addresses[0] == "lying/00.jpg"
    assert np.bincount(source.labels).tolist() == [20, 20]
    assert source.encoded(0) == (image_folder / "lying" / "00.jpg").read_bytes()


def test_a_table_of_paths_and_labels(image_folder: pathlib.Path) -> None:
    table = image_folder / "table.csv"
    table.write_text("path,label\nupright/01.jpg,up\nlying/00.jpg,down\n")
    source = load(str(table))
    assert source.class_names == ("down", "up")
    assert source.addresses == ("upright/01.jpg", "lying/00.jpg")
    assert source.labels.tolist() == [1, 0]
    assert source.encoded(1) == (image_folder / "lying" / "00.jpg").read_bytes()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_thing", "no existing folder or file and no TensorFlow Datasets name"),
        ("cats_vs_dog", "Did you mean cats_vs_dogs[?]"),
        ("no/such/folder", "doesn't exist"),
        ("table.csv", "doesn't exist"),
        ("coco", "one image and one class label"),
    ],
)
def test_what_is_no_source_is_refused_with_the_way_out(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(name)


def test_without_a_network_the_message_comes_within_30_seconds(tmp_path: pathlib.Path) -> None:
    start = time.monotonic()
    with pytest.raises(UserError, match=r"(?s)cats_vs_dogs is not prepared in .*https?://.*--data_dir=DIR.*digits"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(catalog, "_first_download", lambda builder: "https://localhost:9/cats.zip")
            load("cats_vs_dogs", str(tmp_path))
    assert time.monotonic() - start < 30


def test_prepared_data_sets_are_read_offline(shared: pathlib.Path) -> None:
    source = load("cats_vs_dogs", str(shared / "tfds"))
    assert len(source) == 300
    assert source.class_names == ("cat", "dog")
    assert source.is_test is None
    assert tf.io.decode_jpeg(source.encoded(299)).shape[-1] == 3


@pytest.mark.slow
def test_mnist_keeps_its_own_test_part(shared: pathlib.Path) -> None:
    source = load("mnist", str(shared / "tfds"))
    assert len(source) == 70_000
    assert source.is_test is not None
    assert source.is_test.sum() == 10_000
    assert source.addresses[-1] == "mnist/test/9999"
