"""Labelled images: where they are and what each one shows, before any pipeline exists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import tensorflow as tf

from errors import UserError


@dataclass(frozen=True)
class Dataset:
    """Labelled images.

    Attributes:
        name: the `data` argument of its `load`.
        addresses: a unique, stable name for each image: its path below the data folder, or like `mnist/test/17`.
        records: object array of the images' file paths or encoded bytes.
        labels: int64 array of class indices.
        class_names: names in index order.
        holds_paths: whether `records` are paths (else encoded bytes).
        is_test: bool array, True for images that the publisher set apart for testing; None when there are none.
        spans: if images share files, int64 with a row per image: its first byte in the file, its length, and the
            number of bytes after it. None if each has a separate file or is in memory.
        columns: further values by name, float64 or an object array of text with an element per image; empty for most.
        digests: SHA-256 of each image's bytes, hexadecimal; empty before the images have been validated.
    """

    name: str
    addresses: tuple[str, ...]
    records: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    holds_paths: bool
    is_test: np.ndarray | None = None
    spans: np.ndarray | None = None
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    digests: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.addresses)

    def take(self, indices: np.ndarray) -> Dataset:
        """The images at `indices`, in that order, with the same class names."""
        return replace(
            self,
            addresses=tuple(self.addresses[i] for i in indices),
            records=self.records[indices],
            labels=self.labels[indices],
            is_test=None if self.is_test is None else self.is_test[indices],
            spans=None if self.spans is None else self.spans[indices],
            columns={name: values[indices] for name, values in self.columns.items()},
            digests=tuple(self.digests[i] for i in indices) if self.digests else (),
        )

    @property
    def known_digests(self) -> tuple[str, ...]:
        """`digests`, which splits and caches need.

        Raises:
            UserError: the images have not been validated.
        """
        if len(self.digests) != len(self):
            raise UserError(
                "Splits and caches need the SHA-256 of each image. Received: a data set that was not validated. Pass "
                "the result of `data.validate(dataset)`."
            )
        return self.digests

    def encoded(self, index: int) -> bytes:
        """The encoded bytes of one image."""
        record = self.records[index]
        if not self.holds_paths:
            return record
        with tf.io.gfile.GFile(record, "rb") as file:
            if self.spans is None:
                return file.read()
            start, length, _ = self.spans[index].tolist()
            file.seek(start)
            return file.read(length)

    def reader(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """A function for graphs: from the index of an image to its encoded bytes, both scalars."""
        with tf.device("CPU"):
            if self.spans is not None:
                return _span_reader(self.records, self.spans)
            records = tf.constant(self.records)
        if self.holds_paths:
            return lambda index: tf.io.read_file(records[index])
        return lambda index: records[index]


def _span_reader(records: np.ndarray, spans: np.ndarray) -> Callable[[tf.Tensor], tf.Tensor]:
    """Reads part of a file; TensorFlow's only operation for that is a data set of fixed-length records."""
    files, which = np.unique(records, return_inverse=True)
    paths, numbers, places = tf.constant(files), tf.constant(which), tf.constant(spans)

    def read(index: tf.Tensor) -> tf.Tensor:
        start, length, after = tf.unstack(places[index])
        # The public class takes twice as long, because it supports many files.
        records = tf.raw_ops.FixedLengthRecordDatasetV2(
            filenames=paths[numbers[index]],
            header_bytes=start,
            record_bytes=length,
            footer_bytes=after,
            buffer_size=tf.constant(0, tf.int64),
            compression_type="",
        )
        return tf.raw_ops.DatasetToSingleElement(dataset=records, output_types=[tf.string], output_shapes=[()])[0]

    return read


def as_records(values: list[bytes] | list[str]) -> np.ndarray:
    """An object array; NumPy's string arrays would drop trailing zero bytes."""
    records = np.empty(len(values), dtype=object)
    records[:] = values
    return records
