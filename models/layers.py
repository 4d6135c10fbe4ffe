"""Building blocks of the networks: preprocessing, layers that Keras lacks, heads, and freezing.

They consist of Keras's own layers and operations, so that `keras.models.load_model` opens a saved network without this
project.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from models import ModelSpec


@dataclasses.dataclass(frozen=True)
class Mode:
    """(pixels - mean) / scale per channel, after an optional swap of RGB to BGR; all in units of 0-255."""

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    bgr: bool = False


MODES: dict[str, Mode] = {
    # Caffe's ImageNet networks were trained with it, and so were VGG16, ResNet50 and SqueezeNet in Keras.
    "caffe": Mode(mean=(103.939, 116.779, 123.68), scale=(1.0, 1.0, 1.0), bgr=True),
    # torchvision's: 0-1, then the mean (0.485, 0.456, 0.406) and deviation (0.229, 0.224, 0.225) of ImageNet.
    "torch": Mode(mean=(123.675, 116.28, 103.53), scale=(58.395, 57.12, 57.375)),
    # LeNet-5's (LeCun et al. 1998, section II.B): background -0.1 and ink 1.175, so that mean and deviation of a
    # digit's pixels are about 0 and 1. MNIST's background is black.
    "lecun": Mode(mean=(20.0,), scale=(200.0,)),
    # For networks trained from scratch only: -1 to 1, for any number of channels.
    "centered": Mode(mean=(127.5,), scale=(127.5,)),
}
# The standard deviation after "caffe": measured 63 to 66 on photographs of cats and dogs.
_CAFFE_DEVIATION = 65.0


def preprocessing(mode: str, shape: tuple[int, int, int]) -> keras.Model:
    """The model `preprocessing`: from pixels in 0-255, uint8 or float, to the backbone's float32 inputs.

    Args:
        mode: a key of `MODES`.
        shape: height, width and channels.

    Raises:
        ValueError: for an unknown mode.
    """
    if mode not in MODES:
        raise ValueError(f"`mode` must be one of {sorted(MODES)}. Received: mode={mode!r}")
    known = MODES[mode]
    # Under mixed precision the subtraction of the mean would lose the low bits.
    pixels = keras.Input(shape, name="pixels", dtype="float32")
    rescaling = layers.Rescaling(
        scale=[1 / scale for scale in known.scale],
        offset=[-mean / scale for mean, scale in zip(known.mean, known.scale, strict=True)],
        dtype="float32",
        name="rescaling",
    )
    outputs = rescaling(pixels[..., ::-1] if known.bgr else pixels)
    return _with_stable_names(keras.Model(pixels, outputs, name="preprocessing"))


def first_kernel_initializer(mode: str) -> keras.initializers.Initializer:
    """He initialization for the layer that sees preprocessed pixels.

    Without BatchNorm, later layers keep the scale of the first one: pixels of plus and minus a hundred would start the
    training with logits, and a loss, in the hundreds.
    """
    deviation = _CAFFE_DEVIATION if mode == "caffe" else 1.0
    return keras.initializers.VarianceScaling(2.0 / deviation**2)


def batch_normalization(transfer: bool, **kwargs: Any) -> keras.layers.BatchNormalization:
    """BatchNorm for a backbone: momentum 0.9, or 1 with `transfer`, so that no batch ever changes its statistics.

    With Keras's default of 0.99, the statistics of a short training lag for epochs. Keras 3.15 passes a model's
    `training` to all of its layers, even those that the graph calls with `training=False`; so the momentum, which is
    saved with the model, tells `unfreeze_backbone` which layers always use their stored statistics.
    """
    return layers.BatchNormalization(momentum=1.0 if transfer else 0.9, **kwargs)


def local_response_normalization(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """x / (2 + 1e-4 * sum of x^2 over 5 neighboring maps)^0.75 (Krizhevsky et al. 2012, section 3.3), in float32.

    The sum is not divided by 5 (Caffe and torch divide: their alpha of 5e-4 is this 1e-4).

    Args:
        x: feature maps (batch, height, width, maps).
        name: of the resulting sub-model.
    """
    numbers = np.arange(x.shape[-1])
    # On a CPU, the sum as a matrix product takes a fifth of the time of TensorFlow's own kernel.
    is_near = (np.abs(numbers[:, np.newaxis] - numbers) <= 2).astype("float32")
    maps = keras.Input(x.shape[1:], dtype=x.dtype, name="maps")
    values = ops.cast(maps, "float32")
    base = 2.0 + 1e-4 * ops.matmul(ops.square(values), is_near)
    return _with_stable_names(keras.Model(maps, values * ops.rsqrt(base * ops.sqrt(base)), name=name))(x)


def _with_stable_names(model: keras.Model) -> keras.Model:
    """Names operations by position in the model; Keras numbers them per process, so equal models would differ."""
    for i, operation in enumerate(model.operations):
        if not isinstance(operation, keras.Layer):
            operation.name = f"{type(operation).__name__.lower()}_{i}"
    return model


def adaptive_mean(x: keras.KerasTensor, size: int) -> keras.KerasTensor:
    """Means over windows that cover the maps evenly, like torch's AdaptiveAvgPool2d.

    Window i of n covers rows floor(i h / n) up to ceil((i + 1) h / n).

    Args:
        x: feature maps (batch, height, width, maps), height and width equal.
        size: height and width of the result.
    """
    if x.shape[1] == 1:
        # Keras 3.15's AdaptiveAveragePooling2D fails here.
        return layers.UpSampling2D(size, name="adaptive_pool")(x)
    return layers.AdaptiveAveragePooling2D(size, name="adaptive_pool")(x)


def num_logits(num_classes: int) -> int:
    """One logit for two classes (positive: class 1), else one per class."""
    return 1 if num_classes == 2 else num_classes


def linear_head(backbone: keras.Model, num_classes: int) -> keras.Model:
    """Features (batch, n) -> Dense `predictions` -> logits."""
    return _head(backbone, [_predictions(num_classes)])


def pooled_head(backbone: keras.Model, num_classes: int) -> keras.Model:
    """Feature maps (batch, h, w, n) -> mean over height and width -> Dense `predictions` -> logits."""
    return _head(backbone, [layers.GlobalAveragePooling2D(name="avg_pool", dtype="float32"), _predictions(num_classes)])


def convolutional_head(backbone: keras.Model, num_classes: int) -> keras.Model:
    """SqueezeNet's: dropout 0.5 -> 1x1 convolution `conv10` -> ReLU -> mean over height and width -> logits.

    A single logit has no ReLU, with which it could never be negative: class 0 could not be predicted.
    """
    logits = num_logits(num_classes)
    activation = None if logits == 1 else "relu"
    conv10 = layers.Conv2D(logits, 1, activation=activation, name="conv10", dtype="float32")
    pool = layers.GlobalAveragePooling2D(name="avg_pool", dtype="float32")
    return _head(backbone, [layers.Dropout(0.5, name="drop9"), conv10, pool])


def fully_connected_head(backbone: keras.Model, num_classes: int, units: int = 4096) -> keras.Model:
    """VGG's: flatten -> two dense layers (`fc1`, `fc2`) with ReLU and dropout 0.5 each -> logits."""
    stack: list[keras.layers.Layer] = [layers.Flatten(name="flatten")]
    for i in (1, 2):
        stack.append(layers.Dense(units, activation="relu", kernel_initializer="he_normal", name=f"fc{i}"))
        stack.append(layers.Dropout(0.5, name=f"drop{i}"))
    return _head(backbone, [*stack, _predictions(num_classes)])


def _predictions(num_classes: int) -> keras.layers.Layer:
    # In float32 even under mixed precision: the 8 bits of a bfloat16 logit are too few for a loss.
    return layers.Dense(num_logits(num_classes), name="predictions", dtype="float32")


def _head(backbone: keras.Model, stack: list[keras.layers.Layer]) -> keras.Model:
    return keras.Sequential([keras.Input(backbone.output_shape[1:], name="features"), *stack], name="head")


def compose(spec: ModelSpec, image_size: int, backbone: keras.Model, head: keras.Model) -> keras.Model:
    """Pixels in 0-255, (batch, image_size, image_size, channels) -> preprocessing -> backbone -> head -> logits."""
    shape = (image_size, image_size, spec.channels)
    pixels = keras.Input(shape, name="pixels", dtype="float32")
    model = keras.Model(pixels, head(backbone(preprocessing(spec.preprocessing, shape)(pixels))), name=spec.name)
    unfreeze_backbone(model)
    return model


def freeze_backbone(model: keras.Model) -> None:
    """Freezes every weight and statistic of the backbone. Recompile the model afterwards, and fit `frozen(model)`."""
    backbone = model.get_layer("backbone")
    backbone.trainable = False
    for layer in _fixed_batch_normalizations(backbone):
        # TensorFlow skips assigning an attribute its present value, and with it what Keras does on assignment.
        layer.gamma.trainable = layer.beta.trainable = False


def unfreeze_backbone(model: keras.Model) -> None:
    """Makes every weight of the backbone trainable. Recompile the model afterwards.

    If built with `transfer=True`, BatchNorm still uses its stored statistics, unchanged; gamma and beta train.
    """
    backbone = model.get_layer("backbone")
    backbone.trainable = True
    for layer in _fixed_batch_normalizations(backbone):
        # Keras uses the stored statistics of a layer that isn't trainable; its variables may be.
        layer.trainable = False
        layer.gamma.trainable = layer.beta.trainable = True


def _fixed_batch_normalizations(backbone: keras.Model) -> list[keras.layers.BatchNormalization]:
    return [
        layer for layer in backbone.layers if isinstance(layer, layers.BatchNormalization) and layer.momentum == 1.0
    ]


def frozen(model: keras.Model) -> keras.Model:
    """A model to fit while the backbone is frozen: `model` without dropout or noise in its backbone, sharing weights.

    Keras runs the BatchNorm of a frozen backbone in inference mode, but not its dropout: features would differ at every
    step. Returns `model` itself if there is none.
    """
    backbone = model.get_layer("backbone")
    if not any(map(_is_random, backbone.layers)):
        return model
    steady = keras.models.clone_model(backbone, clone_function=lambda layer: layer, call_function=_call_unless_random)
    pixels = keras.Input(backbone.input_shape[1:], name="pixels")
    return keras.Model(pixels, model.get_layer("head")(steady(model.get_layer("preprocessing")(pixels))))


def _is_random(layer: keras.layers.Layer) -> bool:
    """Whether it is dropout or noise, whose only variable is a seed."""
    return bool(layer.variables) and not layer.weights


def _call_unless_random(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
    return args[0] if _is_random(layer) else layer(*args, **kwargs)


_NOT_EVIDENCE = (
    layers.InputLayer,
    layers.Dropout,
    layers.MaxPooling2D,
    layers.AveragePooling2D,
    layers.AdaptiveAveragePooling2D,
    layers.UpSampling2D,
)


def last_convolution(model: keras.Model) -> str | None:
    """The name of the layer, inside the backbone, with the last feature maps before the final pooling.

    Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) weights these maps: after the activation, and after the sum or
    concatenation of a block's branches (`conv5_block3_out`, `fire9_concat`), not one of the branches.
    Use it as `model.get_layer("backbone").get_layer(name)`. None without a convolution.
    """
    backbone = model.get_layer("backbone")
    if not any(isinstance(layer, layers.Conv2D) for layer in backbone.layers):
        return None
    maps = [layer for layer in backbone.layers if not isinstance(layer, _NOT_EVIDENCE) and len(layer.output.shape) == 4]
    return maps[-1].name
