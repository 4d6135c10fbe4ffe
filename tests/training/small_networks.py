"""Builders of networks too small to be in the registry, in the place of those whose names they have."""

from __future__ import annotations

import keras

from models import ModelSpec, alexnet
from models.layers import compose, linear_head
from tests.models.golden import TINY_OWT


def alexnet_owt(spec: ModelSpec, num_classes: int, image_size: int, transfer: bool) -> keras.Model:
    """AlexNet, with dropout in its backbone, of 32 units per dense layer."""
    features = alexnet.backbone(image_size, spec.channels, TINY_OWT, dense_units=32, dropout_first=True, maps=2)
    return compose(spec, image_size, features, linear_head(features, num_classes))
