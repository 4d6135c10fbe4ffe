"""The functions that a server calls: encoded images or pixels in, labels and probabilities out.

An image that can't be decoded gets an error and doesn't affect the others of its batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import keras
import tensorflow as tf

from data.decode import decode, is_bitmap, is_png
from data.gif import first_frame, is_gif
from data.image_header import LARGEST_BYTES, LARGEST_PIXELS, TOO_MANY_BYTES, TOO_MANY_PIXELS
from serving.wire import Metadata
from training.heads import by_head, make

NOT_AN_IMAGE = "not a JPEG, PNG, GIF or BMP image"
DAMAGED = "damaged or cut off"

_Answers = dict[str, tf.Tensor]


@dataclass(frozen=True, eq=False)
class Signatures:
    """The endpoints of one model. Every input and output has a batch dimension, which server-side batching needs."""

    model: keras.Model
    about: Metadata

    def serving_default(self, image_bytes: tf.Tensor) -> _Answers:
        """Answers encoded images, each in its own row, independently of the others.

        Args:
            image_bytes: strings (batch,), each a JPEG, PNG, GIF (first frame) or BMP file of at most 100 megapixels
                and 512 MiB.

        Returns:
            The outputs of `pixels`, and `error`, strings (batch,). A row with an error has an empty label and zeros.
        """
        pixels, error = decode_batch(image_bytes, self.about.image_size, self.about.channels)
        answers = {name: _where(error == "", values) for name, values in self.pixels(pixels).items()}
        return {**answers, "error": error}

    def pixels(self, pixels: tf.Tensor) -> _Answers:
        """Answers decoded images.

        Args:
            pixels: uint8 (batch, image_size, image_size, channels) in 0-255.

        Returns:
            `label` (batch,) the name of the most probable class, `score` (batch,) its probability, `probabilities`
            (batch, classes) in the order of the class names, and the answers of further heads, by their names.
        """
        size, channels = self.about.image_size, self.about.channels
        # The server runs the graph on any shape whatever the signature says, and some kernels then end the process.
        pixels = tf.ensure_shape(pixels, (None, size, size, channels))
        outputs = by_head(self.model(tf.cast(pixels, tf.float32), training=False))
        heads = make(self.about.heads, self.about.class_names, {})
        answers = [head.answer(tf.cast(outputs[head.name], tf.float32)) for head in heads]
        return {name: values for answer in answers for name, values in answer.items()}

    def metadata(self, request: tf.Tensor) -> _Answers:
        """The metadata as JSON, once for each element of `request`, strings (batch,) whose content is ignored."""
        return {"metadata": tf.fill(tf.shape(request), self.about.to_json())}

    def specs(self) -> dict[str, list[tf.TensorSpec]]:
        """The input of each endpoint."""
        size, channels = self.about.image_size, self.about.channels
        return {
            "serving_default": [tf.TensorSpec((None,), tf.string, "image_bytes")],
            "pixels": [tf.TensorSpec((None, size, size, channels), tf.uint8, "pixels")],
            "metadata": [tf.TensorSpec((None,), tf.string, "request")],
        }


def decode_batch(image_bytes: tf.Tensor, image_size: int, channels: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes each image by `data.decode.decode`; one that can't be decoded gives a black row and the reason.

    The whole batch is tried first, at no extra cost. Only if an image in it fails is the batch decoded again, each
    image in a separate data set that ignores the error.

    Args:
        image_bytes: encoded images, strings of shape (batch,).
        image_size: height and width of the result in px.
        channels: 1 or 3.

    Returns:
        uint8 pixels (batch, image_size, image_size, channels) in 0-255, and strings (batch,), empty for good rows.
    """
    row = (tf.TensorSpec((image_size, image_size, channels), tf.uint8), tf.TensorSpec((), tf.string))

    def one(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return _decode_or_refuse(encoded, image_size, channels)

    def guarded(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        failed = tf.data.Dataset.from_tensors((tf.zeros(row[0].shape, tf.uint8), DAMAGED))
        return _first_that_works(tf.data.Dataset.from_tensors(encoded).map(one), failed)

    batch = tf.data.Dataset.from_tensors(image_bytes)
    together = batch.map(lambda all_: tf.map_fn(one, all_, fn_output_signature=row))
    apart = batch.map(lambda all_: tf.map_fn(guarded, all_, fn_output_signature=row))
    with tf.device("CPU"):
        return _first_that_works(together, apart)


def _first_that_works(preferred: tf.data.Dataset, otherwise: tf.data.Dataset) -> tuple[tf.Tensor, tf.Tensor]:
    return preferred.ignore_errors().concatenate(otherwise).take(1).get_single_element()


def _decode_or_refuse(encoded: tf.Tensor, image_size: int, channels: int) -> tuple[tf.Tensor, tf.Tensor]:
    readable, width, height = _header(encoded)
    is_short = tf.strings.length(encoded) <= LARGEST_BYTES
    is_small = tf.cast(width, tf.int64) * tf.cast(height, tf.int64) <= LARGEST_PIXELS
    pixels = tf.cond(
        readable & is_short & is_small,
        lambda: decode(encoded, image_size, channels),
        lambda: tf.zeros((image_size, image_size, channels), tf.uint8),
    )
    too_large = tf.where(is_short, tf.where(is_small, "", TOO_MANY_PIXELS), TOO_MANY_BYTES)
    return pixels, tf.where(readable, too_large, NOT_AN_IMAGE)


def _header(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Whether the bytes begin like one of the four formats, and width and height in px (0 for a BMP).

    TensorFlow's decoders allocate what a header asks for: a file of a kilobyte can ask for 12 gigabytes.
    """
    zero = tf.zeros((), tf.int32)
    kinds = [
        (tf.io.is_jpeg(encoded), lambda: (True, *_jpeg_size(encoded))),
        (is_png(encoded), lambda: (True, *_png_size(encoded))),
        (is_gif(encoded), lambda: (True, *first_frame(encoded)[:2])),
        # A BMP isn't compressed, so it can't ask for more than its size; TensorFlow checks that.
        (is_bitmap(encoded), lambda: (True, zero, zero)),
    ]
    return tf.case(kinds, default=lambda: (False, zero, zero), exclusive=False)


def _jpeg_size(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    height, width = tf.unstack(tf.io.extract_jpeg_shape(encoded)[:2])
    return width, height


def _png_size(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """IHDR must be the first chunk: its width and height are big-endian at byte 16."""
    sizes = tf.io.decode_raw(tf.strings.substr(encoded, 16, 8), tf.int32, little_endian=False)
    # Two huge sides read as negative numbers could give a small area.
    width, height = tf.unstack(tf.where(sizes < 0, tf.int32.max, tf.ensure_shape(sizes, (2,))))
    return width, height


def _where(good: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    shape = tf.concat([tf.shape(good), tf.ones(tf.rank(values) - 1, tf.int32)], axis=0)
    blank = tf.zeros((), values.dtype) if values.dtype != tf.string else tf.constant("")
    return tf.where(tf.reshape(good, shape), values, blank)
