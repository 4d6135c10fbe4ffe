"""Networks of dense layers only: the course's first steps, on MNIST and on cats and dogs."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from models import ModelSpec
from models.layers import compose, linear_head

MNIST_UNITS = (512, 256, 128, 32)
CAT_DOG_UNITS = (1024, 512, 128, 32, 8, 3)
BALANCED_INPUTS = 1024


def plain_mlp(spec: ModelSpec, num_classes: int, image_size: int, transfer: bool) -> keras.Model:
    """Four hidden layers (512-256-128-32) with ReLU, for 28 px gray images; He initialization."""
    features = backbone(image_size, spec.channels, MNIST_UNITS)
    return compose(spec, image_size, features, linear_head(features, num_classes))


def deep_mlp(spec: ModelSpec, num_classes: int, image_size: int, transfer: bool) -> keras.Model:
    """Six hidden layers (1024-512-128-32-8-3) with ReLU, for 128 px RGB images of cats and dogs; He initialization.

    50 million weights treat each pixel separately, which is the lesson.
    """
    features = backbone(image_size, spec.channels, CAT_DOG_UNITS)
    return compose(spec, image_size, features, linear_head(features, num_classes))


def backbone(image_size: int, channels: int, units: tuple[int, ...], dtype: Any = None) -> keras.Model:
    """Flattened pixels through dense layers with ReLU; inputs of more than 1,024 values are scaled down.

    Adam changes every weight by the learning rate whatever the gradient's size, and weights that see the same image
    change together: at 1e-4, one step changes a unit's sum over 49,152 values (128 px RGB) by 2, three times its size.
    Two networks for cats and dogs learned nothing but that noise: the deep one stayed at chance for 5 epochs, and the
    second head of the other one predicted worse (mean error 0.14) than a constant (0.08).
    So n > 1,024 inputs are divided by n / 1,024, and the first weights are drawn larger by the same factor: the
    function is the same, and its steps are those of a layer with 1,024 inputs. That is the rule of learning rates
    proportional to 1 / inputs for Adam (Yang et al. 2022, arXiv:2203.03466, table 3).
    """
    inputs = keras.Input((image_size, image_size, channels), name="preprocessed")
    x = layers.Flatten(name="flatten", dtype=dtype)(inputs)
    factor = max(1.0, x.shape[-1] / BALANCED_INPUTS)
    x = layers.Rescaling(1 / factor, name="balanced", dtype=dtype)(x)
    for i, width in enumerate(units, start=1):
        # He initialization, for inputs that were divided by the factor.
        initializer = keras.initializers.VarianceScaling(2.0 * (factor**2 if i == 1 else 1.0))
        x = layers.Dense(width, activation="relu", kernel_initializer=initializer, name=f"hidden{i}", dtype=dtype)(x)
    return keras.Model(inputs, x, name="backbone")
