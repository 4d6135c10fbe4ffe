"""AlexNet twice: the 2012 network (Krizhevsky et al., NeurIPS 25) and its 2014 revision (arXiv:1404.5997)."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from models import ModelSpec, heads
from models.assembly import compose
from models.freezing import FreezableDropout


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

    As in the paper: local response normalisation (k 2, n 5, alpha 1e-4, beta 0.75) after the ReLU of conv1 and conv2,
    overlapping 3x3 max pooling of stride 2, dropout 0.5 after fc6 and fc7. Against it: one GPU, so every convolution
    sees all maps (two groups would have 60,965,224 weights); 227 px with an unpadded conv1, which gives the 55x55
    maps of the paper's figure 2 (its "224" does not); He initialisation and biases of 0 in place of N(0, 0.01) and
    1; pixels in -1 to 1 in place of minus the mean. No BatchNorm; `transfer` changes nothing.
    """
    features = backbone(image_size, spec.channels, ALEXNET_2012, dense_units=4096, dropout_first=False)
    return compose(spec, image_size, features, heads.linear(features, num_classes))


def alexnet_owt(spec: ModelSpec, num_classes: int, image_size: int, transfer: bool) -> keras.Model:
    """AlexNet with the widths of 2014, as torchvision has it: 61,100,840 weights for 1,000 classes, 224 px.

    Convolutions with bias, no response normalisation, no BatchNorm; conv1 of stride 4 padded by 2, the others to
    `same`; 3x3 max pooling of stride 2; dropout 0.5 before fc6 and fc7; maps averaged to 6x6 where the picture is not
    of 224 px (torch's adaptive pooling). RGB normalised by the mean and deviation of ImageNet. `transfer` changes
    nothing: fc6 and fc7 belong to the backbone.
    """
    features = backbone(image_size, spec.channels, ALEXNET_OWT, dense_units=4096, dropout_first=True, maps=6)
    return compose(spec, image_size, features, heads.linear(features, num_classes))


def backbone(
    image_size: int,
    channels: int,
    convolutions: tuple[Convolution, ...],
    dense_units: int,
    dropout_first: bool,
    maps: int | None = None,
) -> keras.Model:
    """Convolutions, then fc6 and fc7; `maps` is the height and width that fc6 needs (None: whatever there is)."""
    inputs = x = keras.Input((image_size, image_size, channels), name="preprocessed")
    for i, convolution in enumerate(convolutions, start=1):
        x = _convolve(x, convolution, i)
    if maps is not None and x.shape[1] != maps:
        x = AdaptiveMean(maps, name="adaptive_pool")(x)
    x = layers.Flatten(name="flatten")(x)
    for i in (6, 7):
        dense = layers.Dense(dense_units, activation="relu", kernel_initializer="he_normal", name=f"fc{i}")
        dropout = FreezableDropout(0.5, name=f"drop{i}")
        x = dense(dropout(x)) if dropout_first else dropout(dense(x))
    return keras.Model(inputs, x, name="backbone")


def _convolve(x: keras.KerasTensor, convolution: Convolution, i: int) -> keras.KerasTensor:
    # Padding inside the convolution costs no copy; Keras offers it where it leaves the maps' size as it is.
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
        x = LocalResponseNormalization(name=f"norm{i}")(x)
    return layers.MaxPooling2D(3, strides=2, name=f"pool{i}")(x) if convolution.pooled else x


@keras.saving.register_keras_serializable(package="darkroom")
class LocalResponseNormalization(keras.layers.Layer):
    """x / (2 + 1e-4 * sum of x^2 over 5 neighbouring maps)^0.75 (Krizhevsky et al. 2012, section 3.3).

    The sum is not divided by 5 (Caffe and torch divide: their alpha of 5e-4 is this 1e-4). Computes in float32: the
    kernel has no bfloat16 on the CPU.
    """

    def __init__(self, **kwargs: Any) -> None:
        """See the class."""
        super().__init__(**{**kwargs, "dtype": "float32"})

    def call(self, x: Any) -> Any:
        """(batch, height, width, maps) to the same shape."""
        x = ops.cast(x, "float32")
        return tf.nn.local_response_normalization(x, depth_radius=2, bias=2.0, alpha=1e-4, beta=0.75)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The input's shape."""
        return input_shape


@keras.saving.register_keras_serializable(package="darkroom")
class AdaptiveMean(keras.layers.Layer):
    """Means over windows that cover the maps evenly, whatever their size, as torch's AdaptiveAvgPool2d.

    Window i of n covers rows floor(i h / n) up to ceil((i + 1) h / n). Keras 3.15's AdaptiveAveragePooling2D fails
    where the maps are smaller than the result.

    Args:
        size: height and width of the result, in px.
    """

    def __init__(self, size: int, **kwargs: Any) -> None:
        """See the class."""
        super().__init__(**kwargs)
        self.size = size

    def call(self, x: Any) -> Any:
        """(batch, height, width, maps) to (batch, size, size, maps)."""
        rows, columns = (ops.convert_to_tensor(self._means(n), x.dtype) for n in (x.shape[1], x.shape[2]))
        return ops.einsum("ih,bhwc,jw->bijc", rows, x, columns)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The input's shape with the size in place of height and width."""
        return (input_shape[0], self.size, self.size, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "size": self.size}

    def _means(self, length: int) -> np.ndarray:
        """(size, length): each row the weights of one window's mean."""
        matrix = np.zeros((self.size, length), "float32")
        for i in range(self.size):
            start, end = i * length // self.size, -(-(i + 1) * length // self.size)
            matrix[i, start:end] = 1 / (end - start)
        return matrix
