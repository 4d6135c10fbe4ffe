"""What turns a backbone's features into logits. Every head is a `keras.Sequential` named `head`.

The last layer computes in float32 also under mixed precision: 8 bits of a bfloat16 logit are too few for a loss.
"""

from __future__ import annotations

import keras
from keras import layers


def num_logits(num_classes: int) -> int:
    """One logit for two classes (positive: class 1), else one for each class."""
    return 1 if num_classes == 2 else num_classes


def linear(backbone: keras.Model, num_classes: int) -> keras.Model:
    """Features (batch, n) -> Dense `predictions` -> logits."""
    return _head(backbone, [_predictions(num_classes)])


def pooled(backbone: keras.Model, num_classes: int) -> keras.Model:
    """Feature maps (batch, h, w, n) -> mean over height and width -> Dense `predictions` -> logits."""
    return _head(backbone, [layers.GlobalAveragePooling2D(name="avg_pool", dtype="float32"), _predictions(num_classes)])


def convolutional(backbone: keras.Model, num_classes: int) -> keras.Model:
    """SqueezeNet's: dropout 0.5 -> 1x1 convolution `conv10` -> ReLU -> mean over height and width -> logits.

    A single logit goes without the ReLU, under which it could never be negative: class 0 could not be predicted.
    """
    logits = num_logits(num_classes)
    activation = None if logits == 1 else "relu"
    conv10 = layers.Conv2D(logits, 1, activation=activation, name="conv10", dtype="float32")
    pool = layers.GlobalAveragePooling2D(name="avg_pool", dtype="float32")
    return _head(backbone, [layers.Dropout(0.5, name="drop9"), conv10, pool])


def fully_connected(backbone: keras.Model, num_classes: int, units: int = 4096) -> keras.Model:
    """VGG's: flatten -> two dense layers (`fc1`, `fc2`) with ReLU and dropout 0.5 each -> logits."""
    stack: list[keras.layers.Layer] = [layers.Flatten(name="flatten")]
    for i in (1, 2):
        stack.append(layers.Dense(units, activation="relu", kernel_initializer="he_normal", name=f"fc{i}"))
        stack.append(layers.Dropout(0.5, name=f"drop{i}"))
    return _head(backbone, [*stack, _predictions(num_classes)])


def _predictions(num_classes: int) -> keras.layers.Layer:
    return layers.Dense(num_logits(num_classes), name="predictions", dtype="float32")


def _head(backbone: keras.Model, stack: list[keras.layers.Layer]) -> keras.Model:
    return keras.Sequential([keras.Input(backbone.output_shape[1:], name="features"), *stack], name="head")
