"""The functions that a server calls: encoded images or pixels in, labels and probabilities out."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import tensorflow as tf

from serving.guard import decode_batch
from serving.metadata import Metadata
from training.heads import by_head, make

_Row = dict[str, tf.Tensor]


@dataclass(frozen=True, eq=False)
class Signatures:
    """The endpoints of one model. Every input and output has a batch dimension, which server-side batching needs."""

    model: keras.Model
    about: Metadata

    def serving_default(self, image_bytes: tf.Tensor) -> _Row:
        """Answers encoded images, each on its own row, whatever the others hold.

        Args:
            image_bytes: strings (batch,), each a JPEG, PNG, GIF (first frame) or BMP file of at most 100 megapixels.

        Returns:
            The outputs of `pixels`, and `error`, strings (batch,). A row with an error has an empty label and zeros.
        """
        size, channels = self.about.image_size, self.about.channels
        pixels, error = decode_batch(image_bytes, size, channels)
        good = error == ""
        row = {name: _where(good, values) for name, values in self.pixels(pixels).items()}
        return {**row, "error": error}

    def pixels(self, pixels: tf.Tensor) -> _Row:
        """Answers decoded images.

        Args:
            pixels: uint8 (batch, image_size, image_size, channels) in 0-255.

        Returns:
            `label` (batch,) the likeliest class's name, `score` (batch,) its probability, `probabilities`
            (batch, classes) in the order of the class names, and what further heads answer, by their names.
        """
        size, channels = self.about.image_size, self.about.channels
        # The server runs the graph on any shape whatever the signature says, and some kernels then end the process.
        pixels = tf.ensure_shape(pixels, (None, size, size, channels))
        outputs = by_head(self.model(tf.cast(pixels, tf.float32), training=False))
        heads = make(self.about.heads, self.about.class_names, {})
        answers = [head.answer(tf.cast(outputs[head.name], tf.float32)) for head in heads]
        return {name: values for answer in answers for name, values in answer.items()}

    def metadata(self, request: tf.Tensor) -> _Row:
        """The metadata as JSON, once for each element of `request`, strings (batch,) that aren't looked at."""
        return {"metadata": tf.fill(tf.shape(request), self.about.to_json())}

    def specs(self) -> dict[str, list[tf.TensorSpec]]:
        """The input of each endpoint."""
        size, channels = self.about.image_size, self.about.channels
        return {
            "serving_default": [tf.TensorSpec((None,), tf.string, "image_bytes")],
            "pixels": [tf.TensorSpec((None, size, size, channels), tf.uint8, "pixels")],
            "metadata": [tf.TensorSpec((None,), tf.string, "request")],
        }


def _where(good: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    shape = tf.concat([tf.shape(good), tf.ones(tf.rank(values) - 1, tf.int32)], axis=0)
    blank = tf.zeros((), values.dtype) if values.dtype != tf.string else tf.constant("")
    return tf.where(tf.reshape(good, shape), values, blank)
