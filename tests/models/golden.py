"""A tiny network of each family, and their stored logits in golden.json.

`python -m tests.models.golden` writes the file anew; do so only after a change that was meant to change numbers.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import models
from models import alexnet, lenet, mlp, resnet, squeezenet, subclassed, vgg
from models.layers import compose, convolutional_head, fully_connected_head, linear_head, pooled_head
from tests.models.deterministic import fill, pixels

FILE = pathlib.Path(__file__).with_suffix(".json")
TINY_ALEXNET = (
    alexnet.Convolution(6, 11, stride=4, normalized=True, pooled=True),
    alexnet.Convolution(7, 5, padding=2, normalized=True, pooled=True),
    alexnet.Convolution(5, 3, padding=1, pooled=True),
)
TINY_OWT = (
    alexnet.Convolution(6, 11, stride=4, padding=2, pooled=True),
    alexnet.Convolution(5, 3, padding=1, pooled=True),
)
TINY_SQUEEZENET: tuple[squeezenet.Stage, ...] = (("pool1",), ("fire2", 3, 4), ("pool3",), ("fire4", 2, 5))
TINY_BASIC = resnet.Design((1, 2), bottleneck=False, bias=False, epsilon=1e-5, filters=4)
TINY_BOTTLENECK = resnet.Design((2, 1), bottleneck=True, bias=True, epsilon=1.001e-5, filters=2)


def _composed(name: str, image_size: int, backbone: keras.Model, head: Callable[..., keras.Model], **kwargs: Any):
    return compose(models.find(name), image_size, backbone, head(backbone, 3, **kwargs))


VARIANTS: dict[str, Callable[[], keras.Model]] = {
    "lenet5": lambda: _composed(
        "lenet5", 20, lenet.backbone(20, 1, (("c1", 2), ("c3", 3)), (("c5", 5), ("f6", 4))), linear_head
    ),
    "plain_mlp": lambda: _composed("plain_mlp", 6, mlp.backbone(6, 1, (5, 4)), linear_head),
    "bn_mlp": lambda: subclassed.BatchNormMLP((6, 6, 1), (5, 4), 3),
    "multitask": lambda: subclassed.MultiTaskNet((6, 6, 3), (5, 4), 2),
    "alexnet": lambda: _composed(
        "alexnet", 75, alexnet.backbone(75, 3, TINY_ALEXNET, dense_units=24, dropout_first=False), linear_head
    ),
    "alexnet_owt": lambda: _composed(
        "alexnet_owt", 64, alexnet.backbone(64, 3, TINY_OWT, dense_units=6, dropout_first=True, maps=2), linear_head
    ),
    "squeezenet": lambda: _composed(
        "squeezenet", 35, squeezenet.backbone(35, 3, 5, TINY_SQUEEZENET), convolutional_head
    ),
    "vgg16": lambda: _composed("vgg16", 12, vgg.backbone(12, 3, ((1, 3), (2, 4))), fully_connected_head, units=6),
    "resnet18": lambda: _composed("resnet18", 30, resnet.backbone(30, 3, TINY_BASIC), pooled_head),
    "resnet50": lambda: _composed("resnet50", 30, resnet.backbone(30, 3, TINY_BOTTLENECK), pooled_head),
}


def input_size(model: keras.Model) -> tuple[int, int, int]:
    """Height, width and channels of an image; subclassed models tell them by their constructor only."""
    config = model.get_config()
    return tuple(config["input_size"]) if "input_size" in config else model.input_shape[1:]


def outputs(name: str) -> dict[str, list[list[float]]]:
    """Head -> its values for two images."""
    model = VARIANTS[name]()
    fill(model)
    height, _, channels = input_size(model)
    values = model(pixels(2, height, channels), training=False)
    by_head = values if isinstance(values, dict) else {"class": values}
    return {head: np.asarray(value).astype(float).round(6).tolist() for head, value in by_head.items()}


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: outputs(name) for name in VARIANTS}, indent=1) + "\n")
