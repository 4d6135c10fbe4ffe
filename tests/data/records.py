"""TFRecord files of images, as `tf.train.Example` as others write them."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import pytest
import tensorflow as tf

from data import tfrecords


def example(image: bytes, label: int | None, text: str | None = None) -> bytes:
    """An example with the usual features; None leaves one out."""
    feature = {"image/encoded": _of_bytes(image), "image/format": _of_bytes(b"jpeg")}
    if label is not None:
        feature["image/class/label"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
    if text is not None:
        feature["image/class/text"] = _of_bytes(text.encode())
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def write(path: pathlib.Path | str, examples: Sequence[bytes], compression: str = "") -> None:
    """One shard."""
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for each in examples:
            writer.write(each)


def leave_in_shards(patch: pytest.MonkeyPatch) -> None:
    """From now on the images are not held in memory, however few they are."""
    patch.setattr(tfrecords, "KEPT_BYTES", 0)


def _of_bytes(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
