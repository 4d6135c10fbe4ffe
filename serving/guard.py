"""Decoding a batch of images from strangers: whatever one of them holds, the others are answered."""

from __future__ import annotations

import tensorflow as tf

from data.decode import decode, is_bitmap, is_png
from data.gif import first_frame, is_gif
from data.image_header import LARGEST_BYTES, LARGEST_PIXELS, TOO_MANY_BYTES, TOO_MANY_PIXELS

NOT_AN_IMAGE = "not a JPEG, PNG, GIF or BMP image"
DAMAGED = "damaged or cut off"


def decode_batch(image_bytes: tf.Tensor, image_size: int, channels: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes each image by `data.decode.decode`; one that can't be gives a black row and the reason.

    The whole batch is tried at once first, which costs no more than decoding without a guard. Only when an image in
    it fails is the batch decoded again, each image in a data set of its own that swallows the error.

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
    """Whether the bytes begin as one of the four formats, and width and height in px.

    TensorFlow's decoders allocate what a header asks for: a file of a kilobyte can ask for 12 gigabytes.
    """
    zero = tf.zeros((), tf.int32)
    kinds = [
        (tf.io.is_jpeg(encoded), lambda: (True, *_jpeg_size(encoded))),
        (is_png(encoded), lambda: (True, *_png_size(encoded))),
        (is_gif(encoded), lambda: (True, *first_frame(encoded)[:2])),
        # A BMP isn't compressed, so it can't ask for more than it brings; TensorFlow checks that.
        (is_bitmap(encoded), lambda: (True, zero, zero)),
    ]
    return tf.case(kinds, default=lambda: (False, zero, zero), exclusive=False)


def _jpeg_size(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    height, width = tf.unstack(tf.io.extract_jpeg_shape(encoded)[:2])
    return width, height


def _png_size(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """IHDR must be the first chunk: its width and height are big-endian at byte 16."""
    sizes = tf.io.decode_raw(tf.strings.substr(encoded, 16, 8), tf.int32, little_endian=False)
    # A negative side would make a small area of two huge ones.
    width, height = tf.unstack(tf.where(sizes < 0, tf.int32.max, tf.ensure_shape(sizes, (2,))))
    return width, height
