"""What the models written as subclasses of `keras.Model` share: three parts, called one after the other."""

from __future__ import annotations

from typing import Any

import keras

from models.preprocessing import Preprocessing


class ThreePartModel(keras.Model):
    """Preprocessing, backbone and head, built in the constructor; a subclass says what the last two are.

    Takes pixels (batch, height, width, channels) in 0-255.

    Args:
        input_size: height, width and channels of a picture.
        units: of the backbone's hidden layers.
        num_classes: at least 2.
        preprocessing: a key of `models.preprocessing.MODES`.
        transfer: whether BatchNorm keeps its statistics for ever; without BatchNorm it changes nothing.
        frozen: whether the backbone is, see `models.freezing`.
    """

    def __init__(
        self,
        input_size: tuple[int, int, int],
        units: tuple[int, ...],
        num_classes: int,
        preprocessing: str = "centred",
        transfer: bool = False,
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
            "transfer": transfer,
        }
        self.preprocessing = Preprocessing(preprocessing, name="preprocessing")
        self.backbone = self.make_backbone(input_size, units, transfer)
        self.head = self.make_head(num_classes)
        self.backbone.trainable = not frozen
        self.build((None, *input_size))

    def make_backbone(self, input_size: tuple[int, int, int], units: tuple[int, ...], transfer: bool) -> keras.Model:
        """The model named `backbone`, from preprocessed pixels to features, in `self.dtype_policy`."""
        raise NotImplementedError

    def make_head(self, num_classes: int) -> keras.Model:
        """The model named `head`, from the features of `self.backbone` to what the whole model gives."""
        raise NotImplementedError

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """The parts have their weights since the constructor; this only says so."""
        self.built = True

    def call(self, pixels: Any, training: bool | None = None) -> Any:
        """Pixels to what the head gives."""
        features = self.backbone(self.preprocessing(pixels), training=training)
        return self.head(features, training=training)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), **self._arguments, "frozen": not self.backbone.trainable}
