"""scikit-learn's handwritten digits."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from data.dataset import Dataset, as_records

NAME = "digits"
_LARGEST_DIGIT_VALUE = 16


def accepts(data: str) -> bool:
    """Whether `data` is `digits`."""
    return data == NAME


def load(data: str = NAME, data_dir: str | None = None, workers: Any = None) -> Dataset:
    """scikit-learn's 1,797 handwritten digits of 8x8 px, which need no download.

    They are PNG files in memory, white on black, 0-255 (Alpaydin and Kaynak, UCI, 1998). The arguments are not used.
    """
    # Imported here: it takes a second.
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / _LARGEST_DIGIT_VALUE)).astype(np.uint8)[..., np.newaxis]
    return Dataset(
        name=NAME,
        addresses=tuple(f"{NAME}/{i}" for i in range(len(pixels))),
        records=as_records([tf.io.encode_png(image).numpy() for image in pixels]),
        labels=digits.target.astype(np.int64),
        class_names=tuple(str(digit) for digit in range(10)),
        holds_paths=False,
    )
