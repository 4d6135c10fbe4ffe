from __future__ import annotations

import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from data import load, tfds
from errors import UserError


def test_digits_need_no_download() -> None:
    dataset = load("digits")
    assert len(dataset) == 1797
    assert dataset.class_names == tuple("0123456789")
    pixels = tf.io.decode_png(dataset.encoded(0)).numpy()
    assert pixels.shape == (8, 8, 1)
    assert pixels.max() <= 255 and pixels.max() > 200


def test_a_folder_of_classes(image_folder: pathlib.Path) -> None:
    dataset = load(str(image_folder))
    assert dataset.class_names == ("lying", "upright")
    assert dataset.addresses[0] == "lying/00.jpg"
    assert np.bincount(dataset.labels).tolist() == [20, 20]
    assert dataset.encoded(0) == (image_folder / "lying" / "00.jpg").read_bytes()


def test_a_table_of_paths_and_labels(image_folder: pathlib.Path) -> None:
    table = image_folder / "table.csv"
    table.write_text("path,label\nupright/01.jpg,up\nlying/00.jpg,down\n")
    dataset = load(str(table))
    assert dataset.class_names == ("down", "up")
    assert dataset.addresses == ("upright/01.jpg", "lying/00.jpg")
    assert dataset.labels.tolist() == [1, 0]
    assert dataset.encoded(1) == (image_folder / "lying" / "00.jpg").read_bytes()


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
    with pytest.raises(UserError, match=r"(?s)cats_vs_dogs is not prepared in .*https?://.*data_dir.*digits"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tfds, "_first_download", lambda builder: "https://localhost:9/cats.zip")
            load("cats_vs_dogs", str(tmp_path))
    assert time.monotonic() - start < 30


def test_prepared_data_sets_are_read_offline(shared: pathlib.Path) -> None:
    dataset = load("cats_vs_dogs", str(shared / "tfds"))
    assert len(dataset) == 300
    assert dataset.class_names == ("cat", "dog")
    assert dataset.is_test is None
    assert tf.io.decode_jpeg(dataset.encoded(299)).shape[-1] == 3


@pytest.mark.slow
def test_mnist_keeps_its_own_test_split(shared: pathlib.Path) -> None:
    dataset = load("mnist", str(shared / "tfds"))
    assert len(dataset) == 70_000
    assert dataset.is_test is not None
    assert dataset.is_test.sum() == 10_000
    assert dataset.addresses[-1] == "mnist/test/9999"


def test_the_package_alone_does_not_wait_for_tensorflow() -> None:
    code = "import data, sys; assert callable(data.load) and 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=pathlib.Path(__file__).parents[2], check=True)
