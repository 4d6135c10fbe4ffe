"""What there is to learn from: where the pictures are and what each one shows, before any pipeline exists."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf


@dataclass(frozen=True)
class Source:
    """Labelled pictures.

    Attributes:
        name: what `--data` said.
        addresses: a unique, stable name for each picture: its path below the data folder, or like `mnist/test/17`.
        records: object array, each element the path of a picture or its encoded bytes.
        labels: int64 array of class indices.
        class_names: names in index order, sorted.
        holds_paths: whether `records` are paths (else encoded bytes).
        is_test: bool array, True for pictures that the publisher set apart for testing; None when there are none.
    """

    name: str
    addresses: tuple[str, ...]
    records: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    holds_paths: bool
    is_test: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.addresses)

    def take(self, indices: np.ndarray) -> Source:
        """The pictures at `indices`, in that order, with the same class names."""
        return replace(
            self,
            addresses=tuple(self.addresses[i] for i in indices),
            records=self.records[indices],
            labels=self.labels[indices],
            is_test=None if self.is_test is None else self.is_test[indices],
        )

    def encoded(self, index: int) -> bytes:
        """The bytes of one picture as its file holds them."""
        record = self.records[index]
        if not self.holds_paths:
            return record
        with tf.io.gfile.GFile(record, "rb") as file:
            return file.read()


def as_records(values: list[bytes] | list[str]) -> np.ndarray:
    """An object array; NumPy's own string arrays would cut trailing zero bytes off."""
    records = np.empty(len(values), dtype=object)
    records[:] = values
    return records
