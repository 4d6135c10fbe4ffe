"""Residual networks, version 1 (He et al. 2015, arXiv:1512.03385, table 1).

There are two families of published weights, for two different networks:

- ResNet-18 and 34 as in torchvision: convolutions without bias, BatchNorm epsilon 1e-5, RGB normalized by the
  mean and deviation of ImageNet; a stride of 2 sits on the first 3x3 convolution of a block, padded by 1 on every
  side; no projection in the first stage, where the shape does not change.
- ResNet-50, 101 and 152 as in keras.applications (from the paper's Caffe files): convolutions with bias,
  epsilon 1.001e-5, BGR minus the Caffe means; version 1 puts the stride on the first 1x1 convolution of a block (1.5
  puts it on the 3x3), and the first block of every stage projects.

Everything else is the same: layer names as in keras.applications (`conv2_block1_1_conv`, ...), He initialization,
BatchNorm momentum 0.9 (0.1 in torch's notation). The head is global average pooling and one dense layer.
"""

from __future__ import annotations

import dataclasses

import keras
from keras import layers

from models import ModelSpec
from models.layers import batch_normalization, compose, pooled_head


@dataclasses.dataclass(frozen=True)
class Design:
    """What distinguishes the ResNets.

    Attributes:
        repeats: blocks in each stage.
        bottleneck: blocks of 1x1, 3x3, 1x1 (four times wider) convolutions instead of two 3x3.
        bias: whether convolutions have one.
        epsilon: of BatchNorm.
        filters: of the stem and the first stage; each further stage has twice as many.
        transfer: whether BatchNorm keeps its statistics.
    """

    repeats: tuple[int, ...]
    bottleneck: bool
    bias: bool
    epsilon: float
    filters: int = 64
    transfer: bool = False


RESNET18 = Design((2, 2, 2, 2), bottleneck=False, bias=False, epsilon=1e-5)
RESNET34 = Design((3, 4, 6, 3), bottleneck=False, bias=False, epsilon=1e-5)
RESNET50 = Design((3, 4, 6, 3), bottleneck=True, bias=True, epsilon=1.001e-5)
RESNET101 = Design((3, 4, 23, 3), bottleneck=True, bias=True, epsilon=1.001e-5)
RESNET152 = Design((3, 8, 36, 3), bottleneck=True, bias=True, epsilon=1.001e-5)


def resnet18(spec: ModelSpec, num_classes: int, image_size: int, transfer: bool) -> keras.Model:
    """torchvision's ResNet-18: 11,699,112 weights for 1,000 classes, 11,689,512 of them trainable."""
    return _resnet(RESNET18, spec, num_classes, image_size, transfer)


def resnet34(spec: ModelSpec, num_classes: int, image_size: int, transfer: bool) -> keras.Model:
    """torchvision's ResNet-34: 21,814,696 weights for 1,000 classes, 21,797,672 of them trainable."""
    return _resnet(RESNET34, spec, num_classes, image_size, transfer)


def resnet50(spec: ModelSpec, num_classes: int, image_size: int, transfer: bool) -> keras.Model:
    """ResNet-50 of keras.applications: 25,636,712 weights for 1,000 classes, 25,583,592 of them trainable."""
    return _resnet(RESNET50, spec, num_classes, image_size, transfer)


def resnet101(spec: ModelSpec, num_classes: int, image_size: int, transfer: bool) -> keras.Model:
    """ResNet-101 of keras.applications: 44,707,176 weights for 1,000 classes, 44,601,832 of them trainable."""
    return _resnet(RESNET101, spec, num_classes, image_size, transfer)


def resnet152(spec: ModelSpec, num_classes: int, image_size: int, transfer: bool) -> keras.Model:
    """ResNet-152 of keras.applications: 60,419,944 weights for 1,000 classes, 60,268,520 of them trainable."""
    return _resnet(RESNET152, spec, num_classes, image_size, transfer)


def _resnet(design: Design, spec: ModelSpec, num_classes: int, image_size: int, transfer: bool) -> keras.Model:
    features = backbone(image_size, spec.channels, dataclasses.replace(design, transfer=transfer))
    return compose(spec, image_size, features, pooled_head(features, num_classes))


def backbone(image_size: int, channels: int, design: Design) -> keras.Model:
    """A 7x7 convolution and 3x3 max pooling, both of stride 2 and padded on every side, then the stages."""
    inputs = keras.Input((image_size, image_size, channels), name="preprocessed")
    x = layers.ZeroPadding2D(3, name="conv1_pad")(inputs)
    x = _convolution(x, design, design.filters, 7, 2, "conv1")
    x = layers.Activation("relu", name="conv1_relu")(x)
    x = layers.ZeroPadding2D(1, name="pool1_pad")(x)
    x = layers.MaxPooling2D(3, strides=2, name="pool1_pool")(x)
    for stage, repeats in enumerate(design.repeats):
        for block in range(repeats):
            stride = 2 if stage > 0 and block == 0 else 1
            x = _block(x, design, design.filters * 2**stage, stride, f"conv{stage + 2}_block{block + 1}")
    return keras.Model(inputs, x, name="backbone")


def _block(x: keras.KerasTensor, design: Design, filters: int, stride: int, name: str) -> keras.KerasTensor:
    """A residual block; its shortcut is a projection where the shape changes."""
    plan = [(1, filters), (3, filters), (1, 4 * filters)] if design.bottleneck else [(3, filters), (3, filters)]
    shortcut = x
    if stride != 1 or x.shape[-1] != plan[-1][1]:
        shortcut = _convolution(x, design, plan[-1][1], 1, stride, f"{name}_0")
    for i, (size, width) in enumerate(plan, start=1):
        if i > 1:
            x = layers.Activation("relu", name=f"{name}_{i - 1}_relu")(x)
        step = stride if i == 1 else 1
        if size > 1 and step > 1:
            # `same` would pad only below and to the right here; torch pads every side.
            x = layers.ZeroPadding2D(size // 2, name=f"{name}_{i}_pad")(x)
        padding = "valid" if step > 1 else "same"
        x = _convolution(x, design, width, size, step, f"{name}_{i}", padding)
    x = layers.Add(name=f"{name}_add")([shortcut, x])
    return layers.Activation("relu", name=f"{name}_out")(x)


def _convolution(
    x: keras.KerasTensor, design: Design, filters: int, size: int, stride: int, name: str, padding: str = "valid"
) -> keras.KerasTensor:
    """A convolution and its BatchNorm: `{name}_conv`, `{name}_bn`."""
    x = layers.Conv2D(
        filters,
        size,
        strides=stride,
        padding=padding,
        use_bias=design.bias,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    return batch_normalization(design.transfer, epsilon=design.epsilon, name=f"{name}_bn")(x)
