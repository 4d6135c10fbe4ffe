"""Finds the end of a GIF's first frame inside a graph.

TensorFlow decodes all frames to get the first one: a megabyte of frames takes gigabytes of memory.
"""

from __future__ import annotations

import tensorflow as tf

# Four megabytes of compressed first frame; with more, one request could keep a core busy for seconds.
_MOST_BLOCKS = 1 << 14
_HEADER_BYTES = 13
_EXTENSION, _IMAGE = 0x21, 0x2C
# Zeros after the file are no block, so a walk past the end of the file stops there.
_PADDING_BYTES = 16

# Position, size of the canvas, whether the position is inside a block's data, whether that block is an image.
_State = tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]


def is_gif(encoded: tf.Tensor) -> tf.Tensor:
    """Whether the bytes, a string scalar, begin like a GIF."""
    start = tf.strings.substr(encoded, 0, 6)
    return (start == b"GIF87a") | (start == b"GIF89a")


def first_frame(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Walks a GIF's blocks up to the end of its first frame (CompuServe 1990, GIF89a specification).

    Args:
        encoded: the file's bytes, a string scalar.

    Returns:
        width and height in px, each the larger one of canvas and frame, and the byte at which the first frame ends.

    Raises:
        tf.errors.InvalidArgumentError: the file ends within the first frame, is no sequence of blocks, or has too many.
    """
    content = tf.concat([tf.io.decode_raw(encoded, tf.uint8), tf.zeros(_PADDING_BYTES, tf.uint8)], axis=0)
    start = _HEADER_BYTES + _color_table_bytes(_number(content, 10))
    last = tf.size(content) - _PADDING_BYTES
    end, size, is_inside, is_image = tf.while_loop(
        lambda position, size, is_inside, is_image: (is_inside | ~is_image) & (position < last),
        lambda *state: _step(content, state),
        (start, _size_at(content, 6), tf.constant(False), tf.constant(False)),
        maximum_iterations=_MOST_BLOCKS,
    )
    check = tf.debugging.Assert(is_image & ~is_inside, ["cut off in the first frame"])
    with tf.control_dependencies([check]):
        return size[0], size[1], tf.identity(end)


def _step(content: tf.Tensor, state: _State) -> _State:
    position, size, is_inside, is_image = state
    first = _number(content, position)
    return tf.cond(
        is_inside,
        # A block's data is in sub-blocks that begin with their length; an empty one is the last.
        lambda: (position + 1 + first, size, first > 0, is_image),
        lambda: _enter_block(content, first, position, size),
    )


def _enter_block(content: tf.Tensor, kind: tf.Tensor, position: tf.Tensor, size: tf.Tensor) -> _State:
    is_image = kind == _IMAGE
    check = tf.debugging.Assert(is_image | (kind == _EXTENSION), ["no GIF block"])
    with tf.control_dependencies([check]):
        image_data = position + 11 + _color_table_bytes(_number(content, position + 9))
        return (
            tf.where(is_image, image_data, position + 2),
            tf.where(is_image, tf.maximum(size, _size_at(content, position + 5)), size),
            tf.constant(True),
            is_image,
        )


def _number(content: tf.Tensor, position: tf.Tensor | int) -> tf.Tensor:
    return tf.cast(content[position], tf.int32)


def _size_at(content: tf.Tensor, position: tf.Tensor | int) -> tf.Tensor:
    low_and_high = [(_number(content, position + i), _number(content, position + i + 1)) for i in (0, 2)]
    return tf.stack([low + 256 * high for low, high in low_and_high])


def _color_table_bytes(flags: tf.Tensor) -> tf.Tensor:
    """Three bytes for each of 2 to 256 colors; bit 7 says whether there is a table, bits 0-2 its size."""
    return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(2, tf.bitwise.bitwise_and(flags, 7)), 0)
