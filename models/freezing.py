"""Freezing a backbone, and the two layers that make "frozen" mean what it says.

Keras runs a BatchNormalization with `trainable=False` in inference mode, but not a Dropout: a frozen backbone with
dropout inside would give other features at each step, and those could not be computed once and kept.
"""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="darkroom")
class InferenceBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation that always uses, and never updates, its stored statistics.

    For fine-tuning: gamma and beta train like any weight, but batches of a few hundred new pictures do not overwrite
    the statistics of a million (Keras guide "Transfer learning & fine-tuning"). It is a layer and not a
    `training=False` passed to the backbone, so that it survives saving and leaves dropout alone.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalises with the moving mean and variance, whatever `training` says."""
        return super().call(inputs, training=False, mask=mask)


@keras.saving.register_keras_serializable(package="darkroom")
class FreezableDropout(keras.layers.Dropout):
    """Dropout that is off when the layer is frozen; use it inside backbones."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Drops units only in training, and only while `trainable`."""
        return super().call(inputs, training=training and self.trainable)


def batch_normalization(transfer: bool, **kwargs: Any) -> keras.layers.BatchNormalization:
    """The BatchNorm of a backbone: with fixed statistics when it was trained elsewhere, else the usual one."""
    return (InferenceBatchNormalization if transfer else keras.layers.BatchNormalization)(**kwargs)


def freeze_backbone(model: keras.Model) -> None:
    """Stops every weight and statistic of the backbone. Compile the model again afterwards."""
    model.get_layer("backbone").trainable = False


def unfreeze_backbone(model: keras.Model) -> None:
    """Lets every weight of the backbone train. Compile the model again afterwards.

    Built with `transfer=True`, its BatchNorm statistics stay as they are all the same.
    """
    model.get_layer("backbone").trainable = True
