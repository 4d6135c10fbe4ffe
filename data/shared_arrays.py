"""NumPy arrays that TensorFlow uses where they lie, without a copy."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

# In bytes. TensorFlow uses an array in place if it begins at a multiple of it.
ALIGNMENT = 64


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """An array that TensorFlow uses in place; NumPy's begin 16 bytes after a page boundary."""
    size = math.prod(shape)
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].reshape(shape)


class _Exportable:
    """Makes NumPy export an array by DLPack even if it is read-only, such as a mapped file."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array  # Keeps the memory alive.
        self.__array_interface__ = {**array.__array_interface__, "data": (array.ctypes.data, False)}


def shared(array: np.ndarray) -> tf.Tensor:
    """A tensor that shares the memory of a numeric array, mapped or not, if it is aligned.

    `tf.convert_to_tensor` makes one copy of an array, and two of a mapped one (tensorflow#53665, as of 2.21).
    """
    array = np.ascontiguousarray(array)
    if array.ctypes.data % ALIGNMENT or array.dtype.kind not in "uif":
        with tf.device("CPU"):
            return tf.convert_to_tensor(array)
    return tf.experimental.dlpack.from_dlpack(np.asarray(_Exportable(array)).__dlpack__())
