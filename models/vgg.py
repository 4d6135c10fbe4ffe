"""VGG16 (Simonyan and Zisserman 2014, arXiv:1409.1556, table 1, column D)."""

from __future__ import annotations

import keras
from keras import layers

from models import ModelSpec
from models.layers import compose, first_kernel_initializer, fully_connected_head, pooled_head

# (convolutions, filters) of each block.
VGG16 = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))


def vgg16(spec: ModelSpec, num_classes: int, image_size: int, transfer: bool) -> keras.Model:
    """VGG16, 224 px: 138,357,544 weights for 1,000 classes, 14,714,688 of them in the backbone.

    As in keras.applications: 3x3 convolutions padded to `same` of stride 1 with bias and ReLU, 2x2 max pooling of
    stride 2, BGR minus the Caffe means, layer names `block1_conv1`, ...
    The head has the paper's dropout of 0.5 after `fc1` and `fc2`, which keras.applications leaves out; it changes
    no logit at inference. He initialization: sixteen layers without BatchNorm don't start to learn without it (the
    paper initialized them from a smaller network).

    With `transfer` the head is global average pooling and one dense layer instead of the fully connected one with its
    124 million weights.
    """
    features = backbone(image_size, spec.channels, VGG16)
    head = pooled_head if transfer else fully_connected_head
    return compose(spec, image_size, features, head(features, num_classes))


def backbone(image_size: int, channels: int, blocks: tuple[tuple[int, int], ...]) -> keras.Model:
    """Blocks of 3x3 convolutions, each block followed by 2x2 max pooling."""
    inputs = x = keras.Input((image_size, image_size, channels), name="preprocessed")
    for block, (convolutions, filters) in enumerate(blocks, start=1):
        for i in range(1, convolutions + 1):
            x = layers.Conv2D(
                filters,
                3,
                padding="same",
                activation="relu",
                kernel_initializer="he_normal" if (block, i) != (1, 1) else first_kernel_initializer("caffe"),
                name=f"block{block}_conv{i}",
            )(x)
        x = layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
    return keras.Model(inputs, x, name="backbone")
