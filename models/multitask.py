"""One trunk, two heads: what is in the picture, and how bright is it (multitask learning, Caruana 1997)."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from models import ModelSpec, mlp
from models.heads import num_logits
from models.preprocessing import Preprocessing

TRUNK_UNITS = (1024, 256)


def multitask(spec: ModelSpec, num_classes: int, image_size: int, transfer: bool) -> keras.Model:
    """A `MultiTaskNet` with a trunk of 1024-256 for 128 px RGB pictures; `transfer` changes nothing."""
    shape = (image_size, image_size, spec.channels)
    return MultiTaskNet(shape, TRUNK_UNITS, num_classes, spec.preprocessing, name=spec.name)


@keras.saving.register_keras_serializable(package="darkroom")
class MultiTaskNet(keras.Model):
    """A shared trunk of dense layers with ReLU, and two heads, written as a subclassed model.

    Takes (batch, height, width, channels) in 0-255. Gives {"class": float32 logits, "brightness": (batch, 1) in 0-1}.
    He initialisation, no BatchNorm.

    Args:
        input_size: height, width and channels of a picture; height and width are equal.
        units: of the trunk's layers.
        num_classes: at least 2.
        preprocessing: a key of `models.preprocessing.MODES`.
        frozen: whether the backbone is, see `models.freezing`.
    """

    def __init__(
        self,
        input_size: tuple[int, int, int],
        units: tuple[int, ...],
        num_classes: int,
        preprocessing: str = "centred",
        frozen: bool = False,
        **kwargs: Any,
    ) -> None:
        """See the class."""
        # Keras would round pixels to bfloat16 before `preprocessing` sees them.
        super().__init__(**{**kwargs, "autocast": False})
        self._arguments = {
            "input_size": tuple(input_size),
            "units": tuple(units),
            "num_classes": num_classes,
            "preprocessing": preprocessing,
        }
        self.preprocessing = Preprocessing(preprocessing, name="preprocessing")
        self.backbone = mlp.backbone(input_size[0], input_size[-1], units, dtype=self.dtype_policy)
        self.head = _two_heads(self.backbone, num_classes)
        self.backbone.trainable = not frozen
        self.build((None, *input_size))

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """The parts have their weights since the constructor; this only says so."""
        self.built = True

    def call(self, pixels: Any, training: bool | None = None) -> dict[str, Any]:
        """Pixels (batch, height, width, channels) in 0-255 -> both heads' values, by name."""
        features = self.backbone(self.preprocessing(pixels), training=training)
        return self.head(features, training=training)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), **self._arguments, "frozen": not self.backbone.trainable}


def _two_heads(backbone: keras.Model, num_classes: int) -> keras.Model:
    features = keras.Input(backbone.output_shape[1:], name="features")
    logits = layers.Dense(num_logits(num_classes), name="class_logits", dtype="float32")(features)
    brightness = layers.Dense(1, activation="sigmoid", name="brightness", dtype="float32")(features)
    return keras.Model(features, {"class": logits, "brightness": brightness}, name="head")
