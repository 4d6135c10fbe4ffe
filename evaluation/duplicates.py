"""Images of the test split that are, identically or nearly, in the training split too."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from data.progress import progress
from training.run import Split

# At 16 px, copies of a photograph that were re-encoded, resized or recolored correlate above 0.98, different
# photographs of 2,400 cats and dogs never above 0.9. Different handwritten digits of one class reach 0.99.
SIMILARITY = 0.98
SIMILARITY_OF_ICONS = 0.995
_ICON_PX = 64

SIDE_PX = 16
_DECODED_PX = 64
_BATCH = 256
_ROWS = 512


def compare(test: Split, train: Split, typical_px: float) -> list[tuple[int, int, float]]:
    """Pairs of a test image and its nearly identical training image, the most similar first.

    Mirror images count as copies, since augmentation makes them.

    Args:
        test: the images to evaluate on.
        train: the images that were trained on.
        typical_px: the longer side of a typical image file; small drawings correlate more.

    Returns:
        (index in `test`, index in `train`, correlation in 0-1).
    """
    similarity = SIMILARITY if typical_px > _ICON_PX else SIMILARITY_OF_ICONS
    return find(_signatures_of(test, "test"), _signatures_of(train, "training"), similarity)


def _signatures_of(split: Split, name: str) -> np.ndarray:
    """Takes a third of a millisecond per image, since JPEGs are decoded at an eighth of their size."""
    small = Split(split.dataset, _DECODED_PX, 1)
    steps = -(-len(split) // _BATCH)
    batches = progress(small.pixels(_BATCH), steps, f"looking for copies: {name} images (batches of {_BATCH})")
    return signatures(batch.numpy() for batch in batches)


def signatures(thumbnails: Iterable[np.ndarray]) -> np.ndarray:
    """One unit vector per image from batches of gray thumbnails (batch, 64, 64, 1), averaged down to 16 px.

    Brightness and contrast are removed, so the dot product of two vectors is the correlation of their images. An image
    of a single color gives zeros, which match no image.
    """
    flat = np.concatenate([_averaged(batch).reshape(len(batch), -1) for batch in thumbnails])
    flat -= flat.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    return flat / np.where(norms > SIDE_PX, norms, np.inf)


def find(test: np.ndarray, train: np.ndarray, similarity: float) -> list[tuple[int, int, float]]:
    """As `compare`, from two results of `signatures` and the lowest correlation of a copy."""
    mirrored = train.reshape(-1, SIDE_PX, SIDE_PX)[:, :, ::-1].reshape(train.shape)
    pairs = []
    for start in range(0, len(test), _ROWS):
        some = test[start : start + _ROWS]
        correlation = np.maximum(some @ train.T, some @ mirrored.T)
        nearest = correlation.argmax(axis=1)
        highest = correlation.max(axis=1)
        found = np.flatnonzero(highest >= similarity)
        pairs += [(start + int(i), int(nearest[i]), float(highest[i])) for i in found]
    return sorted(pairs, key=lambda pair: -pair[2])


def _averaged(thumbnails: np.ndarray) -> np.ndarray:
    block = _DECODED_PX // SIDE_PX
    blocks = thumbnails.reshape(len(thumbnails), SIDE_PX, block, SIDE_PX, block)
    return blocks.mean(axis=(2, 4), dtype=np.float32)
