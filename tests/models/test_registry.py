from __future__ import annotations

import math
import subprocess
import sys

import keras
import numpy as np
import pytest

import models
from errors import UserError
from models.layers import freeze_backbone, last_convolution
from tests.models.deterministic import pixels

# Of the networks as their papers have them: all parameters, those that train, those of the head.
COUNTS = {
    "lenet5": (61_706, 61_706, 850),
    "plain_mlp": (570_602, 570_602, 330),
    "bn_mlp": (573_386, 571_530, 330),
    "deep_mlp": (50_927_559, 50_927_559, 4),
    "multitask": (50_595_586, 50_595_586, 514),
    "alexnet": (62_378_344, 62_378_344, 4_097_000),
    "alexnet_owt": (61_100_840, 61_100_840, 4_097_000),
    "squeezenet": (1_235_496, 1_235_496, 513_000),
    "vgg16": (138_357_544, 138_357_544, 123_642_856),
    "resnet18": (11_699_112, 11_689_512, 513_000),
    "resnet34": (21_814_696, 21_797_672, 513_000),
    "resnet50": (25_636_712, 25_583_592, 2_049_000),
    "resnet101": (44_707_176, 44_601_832, 2_049_000),
    "resnet152": (60_419_944, 60_268_520, 2_049_000),
}
# With `transfer`, two classes: total, trainable, and trainable with a frozen backbone.
TRANSFER_COUNTS = {
    "vgg16": (14_715_201, 14_715_201, 513),
    "squeezenet": (723_009, 723_009, 513),
    "resnet18": (11_186_625, 11_177_025, 513),
    "resnet50": (23_589_761, 23_536_641, 2_049),
}
LAST_CONVOLUTION = {
    "lenet5": "c3",
    "plain_mlp": None,
    "alexnet": "conv5",
    "alexnet_owt": "conv5",
    "squeezenet": "fire9_concat",
    "vgg16": "block5_conv3",
    "resnet18": "conv5_block2_out",
    "resnet152": "conv5_block3_out",
}


def _counts(model: keras.Model) -> tuple[int, int, int]:
    trainable = _size(model.trainable_weights)
    freeze_backbone(model)
    return model.count_params(), trainable, _size(model.trainable_weights)


def _size(weights: list[keras.Variable]) -> int:
    return sum(math.prod(weight.shape) for weight in weights)


@pytest.mark.parametrize("name", models.REGISTRY)
def test_every_network_has_exactly_the_parameters_that_are_stated(name):
    spec = models.find(name)
    model = models.build(name, spec.classes)
    statistics = _size([weight for weight in model.weights if weight.name.startswith("moving_")])
    counted = _counts(model)

    assert counted == (spec.parameters, spec.parameters - statistics, _size(model.get_layer("head").weights))
    assert counted == COUNTS.get(name, counted)
    assert spec.name == name == model.name
    assert last_convolution(model) == LAST_CONVOLUTION.get(name, last_convolution(model))


@pytest.mark.parametrize("name", TRANSFER_COUNTS)
def test_a_pretrained_backbone_gets_a_small_head(name):
    model = models.build(name, 2, transfer=True, image_size=64)

    assert _counts(model) == TRANSFER_COUNTS[name]


@pytest.mark.parametrize("name", models.REGISTRY)
def test_the_smallest_image_gives_something_and_one_pixel_less_is_refused(name):
    spec = models.find(name)
    if name not in ("resnet101", "resnet152"):
        size = spec.min_image_size
        model = models.build(name, 3, image_size=size, transfer=True)
        logits = model.predict(pixels(2, size, spec.channels), verbose=0)
        logits = logits["class"] if len(spec.heads) > 1 else logits
        assert logits.shape == (2, 3)
        assert np.isfinite(logits).all()

    with pytest.raises(UserError, match=f"at least {spec.min_image_size} px.*--image_size={spec.min_image_size - 1}"):
        models.build(name, 3, image_size=spec.min_image_size - 1)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match=r"alexnet, .*vgg16\. Received: --model=resnet5"):
        models.build("resnet5", 2)


def test_one_class_is_refused():
    with pytest.raises(UserError, match="`num_classes` must be at least 2. Received: 1"):
        models.build("lenet5", 1)


def test_importing_the_registry_imports_neither_keras_nor_tensorflow():
    code = "import sys, models; sys.exit(any(m in sys.modules for m in ('keras', 'tensorflow', 'h5py', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
