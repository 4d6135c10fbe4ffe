"""Puts the three named parts of every functional model together."""

from __future__ import annotations

import keras

from models import ModelSpec
from models.preprocessing import Preprocessing


def compose(spec: ModelSpec, image_size: int, backbone: keras.Model, head: keras.Model) -> keras.Model:
    """Pixels (batch, image_size, image_size, channels) in 0-255 -> preprocessing -> backbone -> head -> logits."""
    pixels = keras.Input((image_size, image_size, spec.channels), name="pixels")
    x = Preprocessing(spec.preprocessing, name="preprocessing")(pixels)
    return keras.Model(pixels, head(backbone(x)), name=spec.name)
