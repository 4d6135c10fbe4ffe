"""scikit-learn's handwritten digits: 1,797 images of 8x8 px that need no download."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from data.source import Source, as_records

_LARGEST_VALUE = 16


def load() -> Source:
    """The digits as PNG files in memory, white on black, 0-255 (Alpaydin and Kaynak, UCI, 1998)."""
    digits = load_digits()
    pixels = np.round(digits.images * (255 / _LARGEST_VALUE)).astype(np.uint8)[..., np.newaxis]
    return Source(
        name="digits",
        addresses=tuple(f"digits/{i}" for i in range(len(pixels))),
        records=as_records([tf.io.encode_png(image).numpy() for image in pixels]),
        labels=digits.target.astype(np.int64),
        class_names=tuple(str(digit) for digit in range(10)),
        holds_paths=False,
    )
