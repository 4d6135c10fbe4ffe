"""SqueezeNet 1.1 (Iandola et al. 2016, arXiv:1602.07360; version 1.1 is from the authors' repository)."""

from __future__ import annotations

import keras
from keras import layers

from models import ModelSpec
from models.layers import compose, convolutional_head, first_kernel_initializer, pooled_head

# A fire module is (name, squeeze filters, filters of each of the two expansions); a pooling layer is (name,).
SQUEEZENET_1_1 = (
    ("pool1",),
    ("fire2", 16, 64),
    ("fire3", 16, 64),
    ("pool3",),
    ("fire4", 32, 128),
    ("fire5", 32, 128),
    ("pool5",),
    ("fire6", 48, 192),
    ("fire7", 48, 192),
    ("fire8", 64, 256),
    ("fire9", 64, 256),
)

Stage = tuple[str] | tuple[str, int, int]


def squeezenet(spec: ModelSpec, num_classes: int, image_size: int, transfer: bool) -> keras.Model:
    """SqueezeNet 1.1, 227 px: 722,496 weights in the backbone, 1,235,496 with `conv10` for 1,000 classes.

    As in the Caffe original and its Keras conversion: an unpadded first convolution of 3x3, stride 2 (1.0 has 7x7
    and 96 filters), unpadded 3x3 max pooling of stride 2 after conv1, fire3 and fire5, fire modules padded to `same`,
    convolutions with bias, BGR minus the Caffe means.
    torchvision's 1.1 pads differently and takes RGB in 0-1: its weights don't fit this network.
    Layer names are the published file's with `_` for `/`.

    With `transfer` the head is global average pooling of fire9 and one dense layer instead of `conv10`.
    """
    features = backbone(image_size, spec.channels, 64, SQUEEZENET_1_1)
    head = pooled_head if transfer else convolutional_head
    return compose(spec, image_size, features, head(features, num_classes))


def backbone(image_size: int, channels: int, stem_filters: int, stages: tuple[Stage, ...]) -> keras.Model:
    """conv1, then the stages in order."""
    inputs = keras.Input((image_size, image_size, channels), name="preprocessed")
    stem = layers.Conv2D(
        stem_filters,
        3,
        strides=2,
        activation="relu",
        kernel_initializer=first_kernel_initializer("caffe"),
        name="conv1",
    )
    x = stem(inputs)
    for name, *filters in stages:
        x = _fire(x, name, *filters) if filters else layers.MaxPooling2D(3, strides=2, name=name)(x)
    return keras.Model(inputs, x, name="backbone")


def _fire(x: keras.KerasTensor, name: str, squeeze: int, expand: int) -> keras.KerasTensor:
    x = _convolution(x, squeeze, 1, f"{name}_squeeze1x1")
    expanded = [_convolution(x, expand, size, f"{name}_expand{size}x{size}") for size in (1, 3)]
    return layers.Concatenate(name=f"{name}_concat")(expanded)


def _convolution(x: keras.KerasTensor, filters: int, size: int, name: str) -> keras.KerasTensor:
    return layers.Conv2D(filters, size, padding="same", activation="relu", kernel_initializer="he_normal", name=name)(x)
