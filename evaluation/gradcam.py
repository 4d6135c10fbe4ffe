"""Grad-CAM heat maps: the regions of an image that are evidence for the predicted class."""

from __future__ import annotations

import keras
import matplotlib as mpl
import numpy as np
import tensorflow as tf

from models.layers import last_convolution

_BATCH = 8


def explain(model: keras.Model, pixels: np.ndarray, classes: np.ndarray) -> np.ndarray | None:
    """Grad-CAM of each image for its class in `classes`.

    Selvaraju et al., Grad-CAM, 2017 (arXiv:1610.02391), equations 1 and 2, on the logits.

    Args:
        model: made by `models.build` or read from a `.keras` file.
        pixels: in 0-255, shape `(images, height, width, channels)`.
        classes: index of the class to explain, for each image; for a single logit 0 or 1.

    Returns:
        float32 in 0-1, shape `(images, height, width)`: 1 where the evidence is strongest, all 0 where there is none
        for the class; None for a network without convolutions.
    """
    name = last_convolution(model)
    if name is None:
        return None
    backbone = model.get_layer("backbone")
    split = keras.Model(backbone.inputs, [backbone.get_layer(name).output, backbone.output])
    starts = range(0, len(pixels), _BATCH)
    maps = [_explain_batch(model, split, pixels[i : i + _BATCH], classes[i : i + _BATCH]) for i in starts]
    return np.concatenate(maps)


def overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """One uint8 image (height, width, channels) with its heat map (height, width) in 0-1 laid over it in color."""
    gray = np.repeat(pixels.mean(axis=-1, keepdims=True), 3, axis=-1)
    colors = 255 * mpl.colormaps["inferno"](heat)[..., :3]
    share = 0.25 + 0.5 * heat[..., np.newaxis]
    return np.round((1 - share) * gray + share * colors).astype(np.uint8)


def _explain_batch(model: keras.Model, split: keras.Model, pixels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    preprocessed = model.get_layer("preprocessing")(tf.convert_to_tensor(pixels))
    with tf.GradientTape() as tape:
        # A frozen backbone has no trainable variables, so without this nothing would be recorded.
        tape.watch(preprocessed)
        maps, features = split(preprocessed, training=False)
        evidence = _evidence(model.get_layer("head")(features, training=False), classes)
    gradients = tf.cast(tape.gradient(evidence, maps), tf.float32)
    weights = tf.reduce_mean(gradients, axis=(1, 2), keepdims=True)
    heat = tf.nn.relu(tf.reduce_sum(weights * tf.cast(maps, tf.float32), axis=-1, keepdims=True))
    heat /= tf.maximum(tf.reduce_max(heat, axis=(1, 2, 3), keepdims=True), keras.config.epsilon())
    return tf.image.resize(heat, pixels.shape[1:3])[..., 0].numpy()


def _evidence(logits: tf.Tensor, classes: np.ndarray) -> tf.Tensor:
    """The logit of each image's class; a single logit is that of class 1, and its negative stands for class 0."""
    if logits.shape[-1] == 1:
        return logits[:, 0] * tf.constant(2.0 * classes - 1.0, logits.dtype)
    return tf.gather(logits, classes, batch_dims=1)
