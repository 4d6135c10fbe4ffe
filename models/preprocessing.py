"""What a backbone wants done to its pixels, as the first layer inside the model."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
from keras import ops


@dataclasses.dataclass(frozen=True)
class Mode:
    """(pixels - mean) / scale, per channel, after an optional swap of RGB to BGR; all in units of 0-255."""

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    bgr: bool = False


MODES: dict[str, Mode] = {
    # What Caffe's ImageNet networks were trained on, and so VGG16, ResNet50 and SqueezeNet in Keras.
    "caffe": Mode(mean=(103.939, 116.779, 123.68), scale=(1.0,), bgr=True),
    # torchvision's: 0-1, then the mean (0.485, 0.456, 0.406) and deviation (0.229, 0.224, 0.225) of ImageNet.
    "torch": Mode(mean=(123.675, 116.28, 103.53), scale=(58.395, 57.12, 57.375)),
    # LeNet-5's (LeCun et al. 1998, section II.B): background -0.1 and ink 1.175, so that mean and deviation of a
    # digit's pixels are about 0 and 1. MNIST's background is black.
    "lecun": Mode(mean=(20.0,), scale=(200.0,)),
    # For networks trained from scratch only: -1 to 1, for any number of channels.
    "centred": Mode(mean=(127.5,), scale=(127.5,)),
}


# The standard deviation of what "caffe" gives: measured 63 to 66 on photographs of cats and dogs.
_CAFFE_DEVIATION = 65.0


def first_kernel_initializer(mode: str) -> keras.initializers.Initializer:
    """He initialisation for the layer that sees preprocessed pixels.

    Without BatchNorm every further layer hands the scale of the first one on: pixels of plus and minus a hundred would
    start the training with logits, and a loss, in the hundreds.
    """
    deviation = _CAFFE_DEVIATION if mode == "caffe" else 1.0
    return keras.initializers.VarianceScaling(2.0 / deviation**2)


@keras.saving.register_keras_serializable(package="darkroom")
class Preprocessing(keras.layers.Layer):
    """Pixels in 0-255 (uint8 or float, RGB or grey) to what the backbone was trained on.

    Always computes in float32: under mixed_bfloat16 the subtraction of the mean would otherwise lose the low bits.

    Args:
        mode: a key of `MODES`.
    """

    def __init__(self, mode: str, **kwargs: Any) -> None:
        """See the class."""
        super().__init__(**{**kwargs, "dtype": "float32"})
        if mode not in MODES:
            raise ValueError(f"`mode` must be one of {sorted(MODES)}. Received: mode={mode!r}")
        self.mode = mode

    def call(self, pixels: Any) -> Any:
        """(batch, height, width, channels) in 0-255 to the same shape in float32."""
        mode = MODES[self.mode]
        pixels = ops.cast(pixels, "float32")
        if mode.bgr:
            pixels = pixels[..., ::-1]
        return (pixels - ops.convert_to_tensor(mode.mean, "float32")) / ops.convert_to_tensor(mode.scale, "float32")

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "mode": self.mode}
