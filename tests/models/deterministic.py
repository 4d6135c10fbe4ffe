"""Weights and pixels that depend on names and shapes only, not on Keras's initializers or on the order of building."""

from __future__ import annotations

import zlib

import keras
import numpy as np

from models.weights import layers_with_weights


def fill(model: keras.Model) -> None:
    """Gives every weight a value that keeps activations near 1; BatchNorm gets statistics that matter."""
    for layer in layers_with_weights(model):
        for variable in layer.weights:
            variable.assign(_value(layer.name, variable.name, tuple(variable.shape)))


def pixels(batch: int, image_size: int, channels: int) -> np.ndarray:
    """A uint8 batch of noise in 0-255."""
    return np.random.RandomState(7).randint(0, 256, (batch, image_size, image_size, channels)).astype("uint8")


def _value(layer: str, variable: str, shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.RandomState(zlib.crc32(f"{layer}/{variable}".encode()))
    noise = random.standard_normal(shape)
    if len(shape) > 1:
        return noise * np.sqrt(2 / np.prod(shape[:-1]))
    if variable in ("gamma", "moving_variance"):
        return random.uniform(0.5, 1.5, shape)
    return 0.1 * noise
