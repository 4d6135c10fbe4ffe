"""Decoding a batch of pictures from strangers: whatever one of them holds, the others are answered."""

from __future__ import annotations

import tensorflow as tf

from data.decode import decode
from data.scan import LARGEST_PIXELS

NOT_A_PICTURE = "not a JPEG, PNG, GIF or BMP picture"
DAMAGED = "damaged or cut off"
TOO_LARGE = f"larger than {LARGEST_PIXELS // 10**6} megapixels"

# Four megabytes of compressed first frame; walking further would let one request keep a core busy for seconds.
_MOST_GIF_BLOCKS = 1 << 14
_GIF_HEADER_BYTES = 13
_GIF_EXTENSION, _GIF_IMAGE = 0x21, 0x2C


def decode_batch(image_bytes: tf.Tensor, image_size: int, channels: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes each picture by `data.decode.decode`; one that can't be gives a black row and the reason.

    The whole batch is tried at once first, which costs no more than decoding without a guard. Only when a picture in
    it fails is the batch decoded again, each picture in a data set of its own that swallows the error.

    Args:
        image_bytes: encoded pictures, strings of shape (batch,).
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
    readable, width, height, end = _header(encoded)
    is_small = tf.cast(width, tf.int64) * tf.cast(height, tf.int64) <= LARGEST_PIXELS
    trailer = tf.where(_is_gif(encoded), b";", b"")
    pixels = tf.cond(
        readable & is_small,
        lambda: decode(tf.strings.substr(encoded, 0, end) + trailer, image_size, channels),
        lambda: tf.zeros((image_size, image_size, channels), tf.uint8),
    )
    return pixels, tf.where(readable, tf.where(is_small, "", TOO_LARGE), NOT_A_PICTURE)


def _header(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Whether the bytes begin as one of the four formats, width and height in px, and where to cut them off.

    TensorFlow's decoders allocate what a header asks for: a file of a kilobyte can ask for 12 gigabytes.
    """
    length = tf.strings.length(encoded)
    zero = tf.zeros((), tf.int32)
    kinds = [
        (tf.io.is_jpeg(encoded), lambda: (True, *_jpeg_size(encoded), length)),
        (tf.strings.substr(encoded, 0, 8) == b"\x89PNG\r\n\x1a\n", lambda: (True, *_png_size(encoded), length)),
        (_is_gif(encoded), lambda: (True, *_first_gif_frame(encoded))),
        # A BMP isn't compressed, so it can't ask for more than it brings; TensorFlow checks that.
        (tf.strings.substr(encoded, 0, 2) == b"BM", lambda: (True, zero, zero, length)),
    ]
    return tf.case(kinds, default=lambda: (False, zero, zero, length), exclusive=False)


def _is_gif(encoded: tf.Tensor) -> tf.Tensor:
    start = tf.strings.substr(encoded, 0, 6)
    return (start == b"GIF87a") | (start == b"GIF89a")


def _jpeg_size(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    height, width = tf.unstack(tf.io.extract_jpeg_shape(encoded)[:2])
    return width, height


def _png_size(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """IHDR must be the first chunk: its width and height are big-endian at byte 16."""
    sizes = tf.io.decode_raw(tf.strings.substr(encoded, 16, 8), tf.int32, little_endian=False)
    # A negative side would make a small area of two huge ones.
    width, height = tf.unstack(tf.where(sizes < 0, tf.int32.max, tf.ensure_shape(sizes, (2,))))
    return width, height


def _first_gif_frame(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Width and height of the canvas or of the first frame, whichever is larger, and where the first frame ends.

    TensorFlow gives the first frame but decodes all: a megabyte of them takes gigabytes. So the file is cut after it.

    Raises:
        tf.errors.InvalidArgumentError: the file ends within the first frame, or is no sequence of blocks.
    """
    # The zeros behind are no block, so that a walk which leaves the file stops there.
    content = tf.concat([tf.io.decode_raw(encoded, tf.uint8), tf.zeros(16, tf.uint8)], axis=0)

    def number(position: tf.Tensor | int) -> tf.Tensor:
        return tf.cast(content[position], tf.int32)

    def size_at(position: tf.Tensor | int) -> tf.Tensor:
        return tf.stack([number(position + 2 * i) + 256 * number(position + 2 * i + 1) for i in range(2)])

    def step(position: tf.Tensor, size: tf.Tensor, is_inside: tf.Tensor, is_image: tf.Tensor) -> tuple[tf.Tensor, ...]:
        first = number(position)
        return tf.cond(
            is_inside,
            lambda: (position + 1 + first, size, first > 0, is_image),
            lambda: _enter_block(first, position, size),
        )

    def _enter_block(first: tf.Tensor, position: tf.Tensor, size: tf.Tensor) -> tuple[tf.Tensor, ...]:
        is_image = first == _GIF_IMAGE
        check = tf.debugging.Assert(is_image | (first == _GIF_EXTENSION), ["no GIF block"])
        with tf.control_dependencies([check]):
            data = position + 11 + _colour_table_bytes(number(position + 9))
            return (
                tf.where(is_image, data, position + 2),
                tf.where(is_image, tf.maximum(size, size_at(position + 5)), size),
                tf.constant(True),
                is_image,
            )

    start = _GIF_HEADER_BYTES + _colour_table_bytes(number(10))
    end, size, is_inside, is_image = tf.while_loop(
        lambda position, size, is_inside, is_image: (is_inside | ~is_image) & (position < tf.size(content) - 16),
        step,
        (start, size_at(6), tf.constant(False), tf.constant(False)),
        maximum_iterations=_MOST_GIF_BLOCKS,
    )
    check = tf.debugging.Assert(is_image & ~is_inside, ["cut off in the first frame"])
    with tf.control_dependencies([check]):
        return size[0], size[1], tf.identity(end)


def _colour_table_bytes(flags: tf.Tensor) -> tf.Tensor:
    """Three bytes for each of 2 to 256 colours; bit 7 says whether there is a table, bits 0-2 its size."""
    return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(2, tf.bitwise.bitwise_and(flags, 7)), 0)
