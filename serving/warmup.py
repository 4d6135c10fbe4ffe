"""Requests that the server answers to itself before it takes any: the first real one isn't slow."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import tensorflow as tf

from serving import wire
from serving.metadata import Metadata

FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
# One image alone and one batch: each new shape can cost memory planning, and on a GPU a search for the best kernels.
_BATCH_SIZES = (1, 8)


def write(folder: str, metadata: Metadata) -> None:
    """Writes `assets.extra/tf_serving_warmup_requests` into the SavedModel in `folder`.

    An uncompressed TFRecord file of `PredictionLog` messages: each kind of file that is decoded by its own operation,
    then batches, then the other signatures. A request that fails would keep the server from loading the version, so
    there is no bad image.
    """
    path = os.path.join(folder, FILE)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tf.io.TFRecordWriter(path) as writer:
        for images in _batches(metadata.image_size):
            writer.write(_record(wire.predict_request(metadata.model, "serving_default", "image_bytes", images)))
        shape = (1, metadata.image_size, metadata.image_size, metadata.channels)
        writer.write(_record(wire.pixels_request(metadata.model, shape, bytes(math.prod(shape)))))
        writer.write(_record(wire.predict_request(metadata.model, "metadata", "request", [b""])))


def _batches(image_size: int) -> list[list[bytes]]:
    # Noise, not a flat color: a decoder's work depends on what there is to decode.
    shape = (2 * image_size, 2 * image_size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    jpeg = tf.io.encode_jpeg(pixels, quality=85).numpy()
    png = tf.io.encode_png(pixels[:image_size, :image_size]).numpy()
    return [[png], *([jpeg] * size for size in _BATCH_SIZES)]


def _record(request: Any) -> bytes:
    log = wire.PredictionLog()
    # The records run on the version they lie in, under whatever name it is served.
    log.predict_log.request.CopyFrom(request)
    return log.SerializeToString()
