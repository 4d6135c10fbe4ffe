"""LeNet-5 (LeCun et al. 1998, Gradient-based learning applied to document recognition, Proc. IEEE 86(11), fig. 2)."""

from __future__ import annotations

import keras
from keras import layers

from models import ModelSpec
from models.layers import compose, linear_head

CONVOLUTIONS = (("c1", 6), ("c3", 16))
DENSE = (("c5", 120), ("f6", 84))


def lenet5(spec: ModelSpec, num_classes: int, image_size: int, transfer: bool) -> keras.Model:
    """LeNet-5 in its modern form: 61,706 weights for ten classes of 32 px gray images.

    Unlike the paper: C3 sees all six maps (the paper's table I connects some of them), S2 and S4 are plain means
    (the paper gives them a weight and a bias), plain tanh (the paper scales it: 1.7159 tanh(2/3 a)), and a linear
    layer with logits instead of the radial-basis output. C5, a 5x5 convolution over 5x5 maps, is written as the
    equivalent dense layer. Pixels from -0.1 to 1.175, as in the paper. Unpadded 5x5 convolutions of stride 1 with
    bias, means over 2x2 of stride 2; Glorot initialization.
    """
    features = backbone(image_size, spec.channels, CONVOLUTIONS, DENSE)
    return compose(spec, image_size, features, linear_head(features, num_classes))


def backbone(
    image_size: int, channels: int, convolutions: tuple[tuple[str, int], ...], dense: tuple[tuple[str, int], ...]
) -> keras.Model:
    """5x5 convolutions, each followed by a 2x2 mean, then dense layers; tanh throughout."""
    inputs = x = keras.Input((image_size, image_size, channels), name="preprocessed")
    for name, filters in convolutions:
        x = layers.Conv2D(filters, 5, activation="tanh", name=name)(x)
        x = layers.AveragePooling2D(2, name=f"{name}_pool")(x)
    x = layers.Flatten(name="flatten")(x)
    for name, units in dense:
        x = layers.Dense(units, activation="tanh", name=name)(x)
    return keras.Model(inputs, x, name="backbone")
