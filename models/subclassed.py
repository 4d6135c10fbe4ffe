"""The networks written as subclasses of `keras.Model`; their files open after `import models.subclassed`."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from models import ModelSpec, mlp
from models.layers import (
    batch_normalization,
    freeze_backbone,
    linear_head,
    num_logits,
    preprocessing,
    unfreeze_backbone,
)

TRUNK_UNITS = (1024, 256)


def bn_mlp(spec: ModelSpec, num_classes: int, image_size: int, transfer: bool) -> keras.Model:
    """`plain_mlp` with BatchNorm before each ReLU: a `BatchNormMLP` of 512-256-128-32."""
    shape = (image_size, image_size, spec.channels)
    return BatchNormMLP(shape, mlp.MNIST_UNITS, num_classes, spec.preprocessing, transfer, name=spec.name)


def multitask(spec: ModelSpec, num_classes: int, image_size: int, transfer: bool) -> keras.Model:
    """A `MultiTaskNet` with a trunk of 1024-256 for 128 px RGB images."""
    shape = (image_size, image_size, spec.channels)
    return MultiTaskNet(shape, TRUNK_UNITS, num_classes, spec.preprocessing, transfer, name=spec.name)


class ThreePartModel(keras.Model):
    """Preprocessing, backbone and head, built in the constructor; a subclass defines the last two.

    Takes pixels (batch, height, width, channels) in 0-255.

    Args:
        input_size: height, width and channels of an image; height and width are equal.
        units: of the backbone's hidden layers.
        num_classes: at least 2.
        preprocessing_mode: a key of `models.layers.MODES`.
        transfer: see `models.build`.
        frozen: whether the backbone is, see `models.layers.freeze_backbone`.
    """

    def __init__(
        self,
        input_size: tuple[int, int, int],
        units: tuple[int, ...],
        num_classes: int,
        preprocessing_mode: str = "centered",
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
            "preprocessing_mode": preprocessing_mode,
            "transfer": transfer,
        }
        height, width, channels = input_size  # A list when loaded from a file.
        self.preprocessing = preprocessing(preprocessing_mode, (height, width, channels))
        self.backbone = self.make_backbone((height, width, channels), units, transfer)
        self.head = self.make_head(num_classes)
        (freeze_backbone if frozen else unfreeze_backbone)(self)
        self.build((None, *input_size))

    def make_backbone(self, input_size: tuple[int, int, int], units: tuple[int, ...], transfer: bool) -> keras.Model:
        """The model named `backbone`, from preprocessed pixels to features, in `self.dtype_policy`."""
        raise NotImplementedError

    def make_head(self, num_classes: int) -> keras.Model:
        """The model named `head`, from the features of `self.backbone` to the model's outputs."""
        raise NotImplementedError

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Marks the model as built; the constructor has made all weights."""
        self.built = True

    def call(self, pixels: Any, training: bool | None = None) -> Any:
        """From pixels to the head's outputs."""
        features = self.backbone(self.preprocessing(pixels), training=training)
        return self.head(features, training=training)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), **self._arguments, "frozen": not self.backbone.trainable}


@keras.saving.register_keras_serializable(package="darkroom")
class BatchNormMLP(ThreePartModel):
    """Dense layers without bias, each followed by BatchNorm and ReLU, then logits (Ioffe and Szegedy 2015).

    BatchNorm's beta replaces the bias; epsilon is Keras's 1e-3. Takes the arguments of `ThreePartModel`.
    """

    def make_backbone(self, input_size: tuple[int, int, int], units: tuple[int, ...], transfer: bool) -> keras.Model:
        """Flattened pixels through dense layers with BatchNorm and ReLU."""
        dtype = self.dtype_policy
        stack: list[keras.layers.Layer] = [layers.Flatten(name="flatten", dtype=dtype)]
        for i, width in enumerate(units, start=1):
            stack += [
                layers.Dense(width, use_bias=False, kernel_initializer="he_normal", name=f"hidden{i}", dtype=dtype),
                batch_normalization(transfer, name=f"hidden{i}_bn", dtype=dtype),
                layers.ReLU(name=f"hidden{i}_relu", dtype=dtype),
            ]
        return keras.Sequential([keras.Input(input_size, name="preprocessed"), *stack], name="backbone")

    def make_head(self, num_classes: int) -> keras.Model:
        """One dense layer of logits."""
        return linear_head(self.backbone, num_classes)


@keras.saving.register_keras_serializable(package="darkroom")
class MultiTaskNet(ThreePartModel):
    """A shared trunk of dense layers with ReLU, and two heads: the class and the brightness (Caruana 1997).

    Returns {"class": float32 logits, "brightness": (batch, 1) in 0-1}. Takes the arguments of `ThreePartModel`.
    """

    def make_backbone(self, input_size: tuple[int, int, int], units: tuple[int, ...], transfer: bool) -> keras.Model:
        """The trunk."""
        return mlp.backbone(input_size[0], input_size[-1], units, dtype=self.dtype_policy)

    def make_head(self, num_classes: int) -> keras.Model:
        """From features to a dict of both heads' outputs, by name.

        Brightness starts at 0.5 for every image, from weights of 0. Random weights start with unrelated differences
        between images, which are unlearned slowly beside a class loss some 20 times as steep: after 4 epochs on cats
        and dogs, the mean error on new images was 0.058, against 0.016 from zeros. A constant has 0.077.
        """
        features = keras.Input(self.backbone.output_shape[1:], name="features")
        logits = layers.Dense(num_logits(num_classes), name="class_logits", dtype="float32")(features)
        brightness = layers.Dense(
            1, activation="sigmoid", kernel_initializer="zeros", name="brightness", dtype="float32"
        )(features)
        return keras.Model(features, {"class": logits, "brightness": brightness}, name="head")
