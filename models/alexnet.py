"""AlexNet twice: the 2012 network (Krizhevsky et al., NeurIPS 25) and its 2014 revision (arXiv:1404.5997)."""

from __future__ import annotations

import dataclasses

import keras
from keras import layers

from models import ModelSpec
from models.layers import adaptive_mean, compose, linear_head, local_response_normalization


@dataclasses.dataclass(frozen=True)
class Convolution:
    """One convolution with ReLU, and what follows it. `padding` is zeros on every side, in px."""

    filters: int
    size: int
    stride: int = 1
    padding: int = 0
    normalized: bool = False
    pooled: bool = False


ALEXNET_2012 = (
    Convolution(96, 11, stride=4, normalized=True, pooled=True),
    Convolution(256, 5, padding=2, normalized=True, pooled=True),
    Convolution(384, 3, padding=1),
    Convolution(384, 3, padding=1),
    Convolution(256, 3, padding=1, pooled=True),
)
ALEXNET_OWT = (
    Convolution(64, 11, stride=4, padding=2, pooled=True),
    Convolution(192, 5, padding=2, pooled=True),
    Convolution(384, 3, padding=1),
    Convolution(256, 3, padding=1),
    Convolution(256, 3, padding=1, pooled=True),
)


def alexnet(spec: ModelSpec, num_classes: int, image_size: int, transfer: bool) -> keras.Model:
    """AlexNet with the widths of 2012, ungrouped: 62,378,344 weights for 1,000 classes.

    As in the paper: local response normalization (k 2, n 5, alpha 1e-4, beta 0.75) after the ReLU of conv1 and conv2,
    overlapping 3x3 max pooling of stride 2, dropout 0.5 after fc6 and fc7. Unlike it: one GPU, so every convolution
    sees all maps (two groups would have 60,965,224 weights); 227 px with an unpadded conv1, which gives the 55x55
    maps of the paper's figure 2 (its "224" does not); He initialization and biases of 0 instead of N(0, 0.01) and
    1; pixels in -1 to 1 instead of minus the mean.
    """
    features = backbone(image_size, spec.channels, ALEXNET_2012, dense_units=4096, dropout_first=False)
    return compose(spec, image_size, features, linear_head(features, num_classes))


def alexnet_owt(spec: ModelSpec, num_classes: int, image_size: int, transfer: bool) -> keras.Model:
    """AlexNet with the widths of 2014, as in torchvision: 61,100,840 weights for 1,000 classes, 224 px.

    Convolutions with bias, no response normalization; conv1 of stride 4 padded by 2, the others to `same`; 3x3 max
    pooling of stride 2; dropout 0.5 before fc6 and fc7; maps averaged to 6x6 if the image is not 224 px (torch's
    adaptive pooling). RGB normalized by the mean and deviation of ImageNet. fc6 and fc7 belong to the backbone.
    """
    features = backbone(image_size, spec.channels, ALEXNET_OWT, dense_units=4096, dropout_first=True, maps=6)
    return compose(spec, image_size, features, linear_head(features, num_classes))


def backbone(
    image_size: int,
    channels: int,
    convolutions: tuple[Convolution, ...],
    dense_units: int,
    dropout_first: bool,
    maps: int | None = None,
) -> keras.Model:
    """Convolutions, then fc6 and fc7; `maps` is the height and width that fc6 needs (None: any)."""
    inputs = x = keras.Input((image_size, image_size, channels), name="preprocessed")
    for i, convolution in enumerate(convolutions, start=1):
        x = _convolve(x, convolution, i)
    if maps is not None and x.shape[1] != maps:
        x = adaptive_mean(x, maps)
    x = layers.Flatten(name="flatten")(x)
    for i in (6, 7):
        dense = layers.Dense(dense_units, activation="relu", kernel_initializer="he_normal", name=f"fc{i}")
        dropout = layers.Dropout(0.5, name=f"drop{i}")
        x = dense(dropout(x)) if dropout_first else dropout(dense(x))
    return keras.Model(inputs, x, name="backbone")


def _convolve(x: keras.KerasTensor, convolution: Convolution, i: int) -> keras.KerasTensor:
    # Padding inside the convolution saves a copy; Keras offers it only if it keeps the maps' size.
    same = convolution.stride == 1 and convolution.padding == convolution.size // 2
    if convolution.padding and not same:
        x = layers.ZeroPadding2D(convolution.padding, name=f"conv{i}_pad")(x)
    x = layers.Conv2D(
        convolution.filters,
        convolution.size,
        strides=convolution.stride,
        padding="same" if same else "valid",
        activation="relu",
        kernel_initializer="he_normal",
        name=f"conv{i}",
    )(x)
    if convolution.normalized:
        x = local_response_normalization(x, name=f"norm{i}")
    return layers.MaxPooling2D(3, strides=2, name=f"pool{i}")(x) if convolution.pooled else x
