"""Pictures of the test part that also stand, nearly the same, among the training pictures."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

# A re-encoded, resized or recoloured copy correlates above this at 16 px; different photographs hardly ever do.
SIMILARITY = 0.985
SIDE_PX = 16

_ROWS = 512


def signatures(thumbnails: Iterable[np.ndarray]) -> np.ndarray:
    """One unit vector a picture from batches of grey uint8 thumbnails (batch, 16, 16, 1).

    Brightness and contrast are taken out, so that the product of two is the correlation of their pictures. A picture of
    one colour only gives zeros, which resemble nothing.
    """
    flat = np.concatenate([batch.reshape(len(batch), -1).astype(np.float32) for batch in thumbnails])
    flat -= flat.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    return flat / np.where(norms > SIDE_PX, norms, np.inf)


def find(test: np.ndarray, train: np.ndarray) -> list[tuple[int, int, float]]:
    """Pairs (test index, index of its most similar training picture, correlation), the most similar first.

    Mirror images count as the same picture. Both arguments come from `signatures`.
    """
    mirrored = train.reshape(-1, SIDE_PX, SIDE_PX)[:, :, ::-1].reshape(train.shape)
    pairs = []
    for start in range(0, len(test), _ROWS):
        some = test[start : start + _ROWS]
        similarity = np.maximum(some @ train.T, some @ mirrored.T)
        best = similarity.argmax(axis=1)
        for row, column in enumerate(best):
            if similarity[row, column] >= SIMILARITY:
                pairs.append((start + row, int(column), float(similarity[row, column])))
    return sorted(pairs, key=lambda pair: -pair[2])
