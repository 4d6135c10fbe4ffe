"""Finding the layer whose activations explain a decision."""

from __future__ import annotations

import keras
from keras import layers

from models.alexnet import AdaptiveMean

_NOT_EVIDENCE = (layers.InputLayer, layers.Dropout, layers.MaxPooling2D, layers.AveragePooling2D, AdaptiveMean)


def last_convolution(model: keras.Model) -> str | None:
    """The name of the layer, inside the backbone, that gives the last feature maps before any pooling.

    That is the map that Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) weighs: after the activation, and after
    the sum or concatenation of a block's branches (`conv5_block3_out`, `fire9_concat`), not one branch of them.
    Use it as `model.get_layer("backbone").get_layer(name)`. None where nothing is convolutional.
    """
    backbone = model.get_layer("backbone")
    if not any(isinstance(layer, layers.Conv2D) for layer in backbone.layers):
        return None
    maps = [layer for layer in backbone.layers if not isinstance(layer, _NOT_EVIDENCE) and len(layer.output.shape) == 4]
    return maps[-1].name
