"""Which part of a batch a process makes, where several devices or hosts train on a batch together."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

# int64 scalars: epoch, step in it, slice of the step's batch.
Place = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


@dataclass(frozen=True)
class Share:
    """The slices of every batch that this process makes.

    A batch is cut into `parts` slices whose sizes differ by one at most. Some layers fail on a slice without rows, so
    of a last batch with fewer rows than parts, every slice is all of it. Every random number is that of the whole
    batch, so the slices together are the batch.

    Attributes:
        parts: how many slices per batch is cut into.
        first: index of the first slice that is made here.
        count: how many are made here, each as an element of its own, in order.
    """

    parts: int = 1
    first: int = 0
    count: int = 1


WHOLE = Share()


def bounds(place: Place, batch_size: int, num_rows: int, share: Share) -> tuple[tf.Tensor, tf.Tensor]:
    """Where in its batch a slice begins and ends."""
    _, step, part = place
    size = tf.minimum(num_rows - step * batch_size, batch_size)
    is_cut = size >= share.parts
    start, stop = part * size // share.parts, (part + 1) * size // share.parts
    return tf.where(is_cut, start, 0), tf.where(is_cut, stop, size)


def largest_slice(batch_size: int, num_rows: int, share: Share) -> int:
    """The most rows that a slice can have."""
    last = num_rows % batch_size
    return max(-(-batch_size // share.parts), last if last < share.parts else 0)


def counts(place: Place, batch_size: int, num_rows: int, share: Share) -> tuple[tf.Tensor, ...]:
    """How often each row of a slice counts: once, or less where every slice holds it. Nothing for whole batches."""
    if share.parts == 1:
        return ()
    start, stop = bounds(place, batch_size, num_rows, share)
    size = tf.minimum(num_rows - place[1] * batch_size, batch_size)
    return (tf.fill([stop - start], tf.where(size >= share.parts, 1.0, 1.0 / share.parts)),)
