"""Exports a run as a SavedModel for TensorFlow Serving: load, describe, trace, check, warm up, publish."""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import models
from data.names import printable
from errors import UserError
from serving import wire
from serving.publish import publish
from serving.signatures import Signatures
from serving.wire import Metadata
from training.heads import by_head
from training.run import Run

SERVER_VERSION = "2.20"
METADATA_FILE = os.path.join("assets.extra", "metadata.json")
WARMUP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
# A single image and a batch: a new shape can cost memory planning, and on a GPU a search for the best kernels.
_WARMUP_BATCH_SIZES = (1, 8)
_SERVER_OPS = pathlib.Path(__file__).with_name("ops_tensorflow_2_20.txt")


def export_run(run: Run, *, base: str | None = None, version: int | None = None, keep_versions: int = 0) -> str:
    """Publishes the best model of `run` as the next version in `base`, and returns the version's path.

    Args:
        run: a run that has finished at least one epoch.
        base: the folder of the versions; None for `export` in the run's folder.
        version: the number to take; None for the next one.
        keep_versions: how many of the highest versions to keep; 0 for all.

    Raises:
        UserError: the run has no model yet, or `base` can't be written to; see `publish`.
    """
    model, about = run.load_model(), describe(run)
    base = base or run.file("export")
    return publish(lambda folder: save(model, folder, about), base, version=version, keep_versions=keep_versions)


def export_model(model: keras.Model, class_names: Sequence[str], base: str, *, name: str = "model") -> str:
    """Publishes a model that was trained without a run folder as the next version in `base`; returns its path.

    Args:
        model: made by `models.build`.
        class_names: in the order of the logits.
        base: the folder of the versions.
        name: the model's name in the metadata.

    Raises:
        UserError: names and logits don't fit, or `base` can't be written to; see `publish`.
    """
    _, size, _, channels = model.get_layer("backbone").input_shape
    pixels = keras.KerasTensor((1, size, size, channels))
    heads = tuple(by_head(model.compute_output_spec(pixels, training=False)))
    about = Metadata(name, tuple(map(printable, class_names)), size, channels, heads)
    return publish(lambda folder: save(model, folder, about), base)


def describe(run: Run) -> Metadata:
    """The metadata of the run's model, which clients can ask the server for."""
    spec = models.find(run.config.model)
    known = run.details()
    details: dict[str, Any] = {
        name: known[name] for name in ("versions", "git_commit", "seed", "parameters") if name in known
    }
    return Metadata(
        model=run.config.model,
        class_names=tuple(printable(name) for name in run.class_names),
        image_size=run.config.image_size or spec.image_size,
        channels=spec.channels,
        heads=spec.heads,
        run=_last_part(os.path.abspath(run.path)),
        # Without folders, which would tell clients where the images are.
        details={**details, "data": _last_part(run.config.data), "test": run.test_metrics()},
    )


def save(model: keras.Model, folder: str, metadata: Metadata) -> None:
    """Writes the SavedModel of `model` to the new folder `folder`, for inference only, with warm-up requests.

    Args:
        model: takes pixels in 0-255 (batch, image_size, image_size, channels) and returns logits, or with several
            heads a dict by their names.
        folder: must not exist yet.
        metadata: the class names in the order of the logits, the size of the input, and the model's origin.

    Raises:
        UserError: names and logits don't fit, or the graph holds an operation that the server doesn't know.
    """
    _check_classes(model, metadata)
    signatures = Signatures(model, metadata)
    # The archive keeps the variables that its endpoints use; `track(model)` would store each a second time.
    archive = keras.export.ExportArchive()
    for name, spec in signatures.specs().items():
        archive.add_endpoint(name, getattr(signatures, name), input_signature=spec)
    archive.write_out(folder, verbose=False)
    check_ops(folder)
    os.makedirs(os.path.join(folder, "assets.extra"), exist_ok=True)
    pathlib.Path(folder, METADATA_FILE).write_text(metadata.to_json() + "\n", encoding="utf-8")
    write_warmup(folder, metadata)


def check_ops(folder: str) -> None:
    """Raises `UserError` when the SavedModel in `folder` uses an operation that the server's TensorFlow lacks."""
    unknown = sorted(graph_ops(folder) - set(_SERVER_OPS.read_text(encoding="utf-8").split()))
    if unknown:
        raise UserError(
            f"The model must use only operations that TensorFlow {SERVER_VERSION} knows, or TensorFlow Serving "
            f"{SERVER_VERSION} can't load it. Received: {', '.join(unknown)}. Replace the layers that use them."
        )


def graph_ops(folder: str) -> set[str]:
    """The names of all operations in the SavedModel's graph and its functions, except calls of its own functions."""
    saved = saved_model_pb2.SavedModel.FromString(pathlib.Path(folder, "saved_model.pb").read_bytes())
    ops = set()
    for meta_graph in saved.meta_graphs:
        functions = meta_graph.graph_def.library.function
        nodes = [*meta_graph.graph_def.node, *(node for function in functions for node in function.node_def)]
        ops |= {node.op for node in nodes} - {function.signature.name for function in functions}
    return ops


def write_warmup(folder: str, metadata: Metadata) -> None:
    """Writes the requests that the server runs before it accepts any, so that the first real one isn't slow.

    An uncompressed TFRecord file of `PredictionLog` messages: a PNG, JPEGs alone and in a batch, then the other
    signatures. A request that fails would keep the server from loading the version, so all images are valid.
    """
    path = os.path.join(folder, WARMUP_FILE)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tf.io.TFRecordWriter(path) as writer:
        for images in _warmup_batches(metadata.image_size):
            writer.write(_record(wire.predict_request(metadata.model, "serving_default", "image_bytes", images)))
        shape = (1, metadata.image_size, metadata.image_size, metadata.channels)
        writer.write(_record(wire.pixels_request(metadata.model, shape, bytes(math.prod(shape)))))
        writer.write(_record(wire.predict_request(metadata.model, "metadata", "request", [b""])))


def _check_classes(model: keras.Model, metadata: Metadata) -> None:
    size, channels = metadata.image_size, metadata.channels
    heads = by_head(model.compute_output_spec(keras.KerasTensor((1, size, size, channels)), training=False))
    logits = heads["class"]
    expected = 1 if len(metadata.class_names) == 2 else len(metadata.class_names)
    if set(heads) != set(metadata.heads) or logits.shape[-1] != expected or len(metadata.class_names) < 2:
        raise UserError(
            f"A model for {len(metadata.class_names)} classes with the heads {', '.join(metadata.heads)} must give "
            f"{expected} logits (one for two classes, else one per class). "
            f"Received: {logits.shape[-1]} logits and the heads {', '.join(heads)}. Check labels.txt against the model."
        )


def _last_part(path: str) -> str:
    return printable(os.path.basename(path.rstrip("/")))


def _warmup_batches(image_size: int) -> list[list[bytes]]:
    # Noise, not a flat color, since a decoder's work depends on the content.
    shape = (2 * image_size, 2 * image_size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    jpeg = tf.io.encode_jpeg(pixels, quality=85).numpy()
    png = tf.io.encode_png(pixels[:image_size, :image_size]).numpy()
    return [[png], *([jpeg] * size for size in _WARMUP_BATCH_SIZES)]


def _record(request: Any) -> bytes:
    log = wire.PredictionLog()
    # The records go to the version that holds them, under whatever name it is served.
    log.predict_log.request.CopyFrom(request)
    return log.SerializeToString()
