"""Augmentation layers: random views of training images as a pure function of given random numbers.

The layers here take the random numbers as an argument, one row per image, and do all geometry in one resampling and all
color in one matrix product. Keras's own random layers draw from hidden state, so a batch would depend on the ones
before it; `augmented` gives them seeds derived from the step's.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from data import AUGMENTATIONS

# Rows: Rec. 601 luma and NTSC's two color axes; a rotation in their plane changes the hue.
_RGB_TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
# Without effect on the images: Keras numbers layers' names, and `StockLayer` replaces seeds.
_IDLE = ("name", "seed")


@keras.saving.register_keras_serializable(package="darkroom")
class RandomGeometry(keras.layers.Layer):
    """Random resized crop, horizontal flip and rotation, in one bilinear resampling.

    Call it with pixels in 0-255, shape `(batch, size, size, channels)`, and draws in 0-1, shape `(batch, num_draws)`;
    it returns float32 pixels of the same shape. Images are reflected at their borders.

    Args:
        smallest_area: smallest fraction of the image's area that a crop keeps, 0-1.
        largest_aspect: largest ratio of the crop's sides, 1 or more; its inverse is the smallest.
        largest_rotation_degrees: in either direction.
        flips: whether to flip half of the images left to right.

    Source: Szegedy et al., "Going deeper with convolutions" (arXiv:1409.4842), section 6, for the resized crop.
    """

    num_draws = 6

    def __init__(
        self,
        smallest_area: float = 0.8,
        largest_aspect: float = 1.1,
        largest_rotation_degrees: float = 0.0,
        flips: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.smallest_area = smallest_area
        self.largest_aspect = largest_aspect
        self.largest_rotation_degrees = largest_rotation_degrees
        self.flips = flips

    def call(self, pixels: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        """Resamples each image with its row of draws."""
        size = pixels.shape[1]
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=tf.cast(pixels, tf.float32),
            transforms=self._transforms(draws, float(size)),
            output_shape=(size, size),
            interpolation="BILINEAR",
            fill_mode="REFLECT",
            fill_value=0.0,
        )

    def _transforms(self, draws: tf.Tensor, size: float) -> tf.Tensor:
        """For each image, the eight coefficients that map an output pixel to an input position."""
        area, aspect, left, top, flip, turn = tf.unstack(draws, self.num_draws, axis=1)
        scale = tf.sqrt(self.smallest_area + area * (1 - self.smallest_area))
        stretch = tf.exp((aspect - 0.5) * math.log(self.largest_aspect))
        width, height = tf.minimum(scale * stretch, 1.0), tf.minimum(scale / stretch, 1.0)
        angle = (2 * turn - 1) * math.radians(self.largest_rotation_degrees)
        mirror = tf.where((flip < 0.5) & self.flips, -1.0, 1.0)
        xx, xy = mirror * width * tf.cos(angle), -mirror * width * tf.sin(angle)
        yx, yy = height * tf.sin(angle), height * tf.cos(angle)
        middle = (size - 1) / 2
        # The center of the crop; at width 1 it is the middle of the image.
        x = middle + (left - 0.5) * (1 - width) * size
        y = middle + (top - 0.5) * (1 - height) * size
        zero = tf.zeros_like(x)
        rows = (xx, xy, x - (xx + xy) * middle, yx, yy, y - (yx + yy) * middle, zero, zero)
        return tf.stack(rows, axis=1)

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return super().get_config() | {
            "smallest_area": self.smallest_area,
            "largest_aspect": self.largest_aspect,
            "largest_rotation_degrees": self.largest_rotation_degrees,
            "flips": self.flips,
        }


@keras.saving.register_keras_serializable(package="darkroom")
class RandomColor(keras.layers.Layer):
    """Random brightness, contrast, saturation and hue, in one 3x3 matrix and one offset per image.

    Call it with pixels in 0-255, shape `(batch, height, width, channels)`, and draws in 0-1, shape
    `(batch, num_draws)`; returns float32 pixels in 0-255. Gray images change in brightness and contrast only.

    Args:
        strength: brightness, contrast and saturation are scaled by a factor in 1 ± `strength`.
        hue: largest shift of the hue, as a fraction of the color circle, 0-0.5.
    """

    num_draws = 4

    def __init__(self, strength: float = 0.2, hue: float = 0.05, **kwargs) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.strength = strength
        self.hue = hue

    def call(self, pixels: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        """Recolors each image with its row of draws."""
        pixels = tf.cast(pixels, tf.float32)
        brightness, contrast, saturation = tf.unstack(1 + (2 * draws[:, :3] - 1) * self.strength, axis=1)
        angle = (2 * draws[:, 3] - 1) * 2 * math.pi * self.hue
        luma = tf.constant(_RGB_TO_YIQ[0] if pixels.shape[-1] == 3 else (1.0,))
        mean = tf.reduce_sum(tf.reduce_mean(pixels, axis=(1, 2)) * luma, axis=-1, keepdims=True)
        gain = brightness * contrast
        offset = ((1 - contrast) * brightness)[:, tf.newaxis] * mean
        if pixels.shape[-1] == 3:
            matrix = gain[:, tf.newaxis, tf.newaxis] * _color_matrix(saturation, angle)
            # With pixels as rows, one matrix product recolors an image.
            flat = tf.reshape(pixels, (tf.shape(pixels)[0], -1, 3))
            changed = tf.reshape(tf.matmul(flat, matrix, transpose_b=True), tf.shape(pixels))
        else:
            changed = gain[:, tf.newaxis, tf.newaxis, tf.newaxis] * pixels
        return tf.clip_by_value(changed + offset[:, tf.newaxis, tf.newaxis], 0.0, 255.0)

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return super().get_config() | {"strength": self.strength, "hue": self.hue}


def _color_matrix(saturation: tf.Tensor, angle: tf.Tensor) -> tf.Tensor:
    """RGB to RGB: scales and rotates the two color axes of YIQ and keeps luma. Shape `(batch, 3, 3)`."""
    to_yiq = tf.constant(_RGB_TO_YIQ)
    cosine, sine = saturation * tf.cos(angle), saturation * tf.sin(angle)
    one, zero = tf.ones_like(sine), tf.zeros_like(sine)
    turn = tf.stack([one, zero, zero, zero, cosine, -sine, zero, sine, cosine], axis=1)
    return tf.linalg.inv(to_yiq) @ tf.reshape(turn, (-1, 3, 3)) @ to_yiq


class StockLayer:
    """A Keras layer that treats each image separately, with seeds derived from the step and the image.

    Args:
        layer: such as `keras.layers.RandomContrast(0.2)`; a copy of it is used.
    """

    num_draws = 0

    def __init__(self, layer: keras.layers.Layer) -> None:
        self.layer = type(layer).from_config(layer.get_config())
        self._seeds = _Seeds()
        for each in self.layer._flatten_layers():
            for name in ("generator", "seed_generator"):
                if isinstance(getattr(each, name, None), keras.random.SeedGenerator):
                    # Bypasses Keras's `__setattr__`, which searches every attribute for variables.
                    object.__setattr__(each, name, self._seeds)

    def __call__(self, pixels: tf.Tensor, seed: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
        """Augments the images one by one; `pixels[0]` has the position `first` in its batch."""

        def change(image_and_place: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            image, place = image_and_place
            self._seeds.start(tf.random.experimental.stateless_fold_in(seed, place))
            changed = self.layer(tf.cast(image, tf.float32)[tf.newaxis], training=True)[0]
            return tf.ensure_shape(tf.cast(changed, tf.float32), image.shape)

        places = first + tf.range(tf.shape(pixels, tf.int64)[0])
        result = tf.TensorSpec(pixels.shape[1:], tf.float32)
        return tf.map_fn(change, (pixels, places), fn_output_signature=result)


class _Seeds(keras.random.SeedGenerator):
    """Derives its seeds from the one given to `start`, instead of from a variable."""

    def __init__(self) -> None:
        self._seed, self._drawn = tf.zeros((2,), tf.int64), 0

    def start(self, seed: tf.Tensor) -> None:
        """Restarts from `seed`."""
        self._seed, self._drawn = seed, 0

    def next(self, ordered: bool = True) -> tf.Tensor:
        """The next seed."""
        self._drawn += 1
        return tf.random.experimental.stateless_fold_in(self._seed, self._drawn)


Layers = Sequence[keras.layers.Layer | StockLayer]


def none() -> list[keras.layers.Layer]:
    """No augmentation."""
    return []


def basic() -> list[keras.layers.Layer]:
    """Resized crop (area 0.8-1, aspect 0.9-1.1), which keeps any image's class, even a digit's."""
    return [RandomGeometry()]


def full() -> list[keras.layers.Layer]:
    """For photographs: `basic` with horizontal flip, rotation within ±10 degrees and color jitter.

    Brightness, contrast and saturation change by up to 0.2, the hue by up to 0.05 of the color circle.
    """
    return [RandomGeometry(largest_rotation_degrees=10.0, flips=True), RandomColor()]


def layers(level: str | Sequence[keras.layers.Layer]) -> Layers:
    """The layers of one level of augmentation, or the given ones, prepared for `augmented`.

    Args:
        level: a name in `data.AUGMENTATIONS`. Or layers: those that take `num_draws` random numbers per image as their
            second argument, like those of this file, and Keras layers that treat each image separately.
    """
    if isinstance(level, str):
        module, function = AUGMENTATIONS[level].split(":")
        level = getattr(importlib.import_module(module), function)()
    return [layer if hasattr(layer, "num_draws") else StockLayer(layer) for layer in level]


def constants(level: str | Sequence[keras.layers.Layer]) -> list[tuple[str, list]]:
    """The class and configuration of each layer of a level, for cache keys of what is made from augmented images."""
    made = [layer.layer if isinstance(layer, StockLayer) else layer for layer in layers(level)]
    return [
        (type(layer).__name__, sorted((name, value) for name, value in layer.get_config().items() if name not in _IDLE))
        for layer in made
    ]


def augmented(
    pixels: tf.Tensor, level_layers: Layers, seed: tf.Tensor, batch_size: int, first: int | tf.Tensor = 0
) -> tf.Tensor:
    """Applies the layers in order to a batch or a slice of it, as a function of `seed`.

    Args:
        pixels: in 0-255, shape `(images, height, width, channels)`.
        level_layers: as `layers` returns them.
        seed: of the whole batch, shape `(2,)`, int64.
        batch_size: size of the whole batch, or more.
        first: position of the first image of `pixels` in the whole batch.
    """
    draws = tf.random.stateless_uniform((batch_size, sum(layer.num_draws for layer in level_layers)), seed)
    draws = draws[first : first + tf.shape(pixels, tf.int64)[0]]
    for number, layer in enumerate(level_layers):
        if isinstance(layer, StockLayer):
            pixels = layer(pixels, tf.random.experimental.stateless_fold_in(seed, number), tf.cast(first, tf.int64))
        else:
            pixels, draws = layer(pixels, draws[:, : layer.num_draws]), draws[:, layer.num_draws :]
    return pixels
