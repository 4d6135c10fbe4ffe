"""A frozen backbone computes the same features for a picture in every epoch, so they are computed once and kept.

The model is cut behind the last layer that has neither weights to train nor chance in it. The front part fills a
file of features, one row a picture; the rest, a model that shares its layers with the whole, trains on that file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from data.files import cache_folder, make_folder, remove_left_over, replacing, reserve, write_text
from data.pipeline import AS_IT_IS, Files, Table, View, ordered_batches, steps_per_epoch
from data.progress import progress
from training.distribution import ALONE, Distribution
from training.objective import Objective

_FEATURES, _COMPLETE = "features.npy", "complete.json"
_CHUNK_BYTES = 1 << 24


def cut(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Cuts `model` into (pixels to features, features to outputs); both share their layers with it.

    Pooling and flattening at the start of the head belong to the first part, since they make features smaller.
    """
    head = model.get_layer("head")
    stack = head.layers if isinstance(head, keras.Sequential) else []
    fixed = 0
    while fixed < len(stack) and _is_fixed(stack[fixed]):
        fixed += 1
    backbone = model.get_layer("backbone")
    # A subclassed model has no shape of its own, and preprocessing keeps that of the pixels.
    pixels = keras.Input(backbone.input_shape[1:], name="pixels")
    features = backbone(model.get_layer("preprocessing")(pixels))
    for layer in stack[:fixed]:
        features = layer(features)
    entrance = keras.Input(features.shape[1:], dtype=features.dtype, name="features")
    rest = keras.Sequential(stack[fixed:])(entrance) if stack else head(entrance)
    return keras.Model(pixels, features, name="front"), keras.Model(entrance, rest, name="rest")


def compute(
    front: keras.Model,
    files: Files,
    digests: list[str],
    objective: Objective,
    batch_size: int,
    title: str,
    team: Distribution = ALONE,
    views: Sequence[View] = (AS_IT_IS,),
) -> Table:
    """The features and targets of all pictures, from an earlier run where nothing that they depend on has changed.

    Args:
        front: the first part of `cut`.
        files: the pictures.
        digests: a hash of each picture's content.
        objective: makes the targets.
        batch_size: pictures at a time; the result doesn't depend on it beyond rounding.
        title: of the progress line.
        team: computes them together; each of its workers reads its share of the pictures and keeps all features.
        views: looks at each picture, which become views of the table.
    """
    # Workers on one machine must not write to the same files.
    place = "features" if team.is_chief else f"features-of-worker-{team.worker}"
    folder = os.path.join(cache_folder(), place, _key(front, files, digests, objective, views))
    if not team.all(_is_whole(folder)):
        shutil.rmtree(folder, ignore_errors=True)
        make_folder(os.path.dirname(folder))
        remove_left_over(os.path.dirname(folder))
        shape = (len(files) * len(views), *front.output_shape[1:])
        batches = progress(
            _forward(front, files, objective, batch_size, team, views),
            steps_per_epoch(files, batch_size) * len(views),
            title,
        )
        with replacing(folder) as beside:
            _fill(beside, shape, batches)
    targets = [np.load(path) for path in _target_paths(folder)]
    structure = objective.targets(tf.zeros((1, 1, 1, 1)), tf.zeros((1,), tf.int64))
    inputs = np.load(os.path.join(folder, _FEATURES), mmap_mode="r")
    return Table(inputs, tf.nest.pack_sequence_as(structure, targets), len(views))


def _is_fixed(layer: keras.layers.Layer) -> bool:
    return not layer.weights and not isinstance(layer, keras.layers.Dropout)


def _key(front: keras.Model, files: Files, digests: list[str], objective: Objective, views: Sequence[View]) -> str:
    """Names everything that the features depend on, so that a change of any of it asks for other features."""
    digest = hashlib.sha256()
    for variable in front.variables:
        digest.update(np.ascontiguousarray(variable.numpy()).tobytes())
    # The configuration holds preprocessing, strides and precision, which no weight shows.
    digest.update(json.dumps(front.get_config(), sort_keys=True, default=str).encode())
    facts = (keras.__version__, tf.__version__, files.image_size, files.channels, objective, digests, views)
    digest.update(repr((*facts, files.source.labels.tolist())).encode())
    return digest.hexdigest()[:20]


def _fill(folder: str, shape: tuple[int, ...], batches: Iterable[tuple[Any, Any]]) -> None:
    """Writes the features as they come, so that memory doesn't grow with the number of pictures."""
    make_folder(folder)
    features = np.lib.format.open_memmap(os.path.join(folder, _FEATURES), "w+", np.float32, shape)
    reserve(os.path.join(folder, _FEATURES))
    targets: list[list[np.ndarray]] = []
    first = 0
    for batch, target in batches:
        features[first : first + len(batch)] = batch
        first += len(batch)
        targets.append([np.asarray(part) for part in tf.nest.flatten(target)])
    features.flush()
    for number, parts in enumerate(zip(*targets, strict=True)):
        np.save(os.path.join(folder, f"target{number}.npy"), np.concatenate(parts))
    sums = {name: _checksum(os.path.join(folder, name)) for name in sorted(os.listdir(folder))}
    write_text(os.path.join(folder, _COMPLETE), json.dumps(sums))


def _forward(
    front: keras.Model,
    files: Files,
    objective: Objective,
    batch_size: int,
    team: Distribution,
    views: Sequence[View],
) -> Iterator[tuple[Any, Any]]:
    @tf.function(reduce_retracing=True)
    def step(pixels: tf.Tensor) -> tf.Tensor:
        return tf.cast(front(pixels, training=False), tf.float32)

    for view in views:
        if not team.is_single:
            yield from _forward_together(step, files, objective, batch_size, team, view)
            continue
        for pixels, targets in ordered_batches(files, batch_size, objective.targets, view=view):
            yield step(pixels), targets


def _forward_together(
    step: Callable, files: Files, objective: Objective, batch_size: int, team: Distribution, view: View
) -> Iterator[tuple[Any, Any]]:
    """The same batches in every worker, though each computes its slices only."""
    labels = tf.constant(files.source.labels)
    numbered = replace(files, source=replace(files.source, labels=np.arange(len(files))))

    def with_number(pixels: tf.Tensor, numbers: tf.Tensor) -> tuple[tf.Tensor, Any]:
        return numbers, objective.targets(pixels, tf.gather(labels, numbers))

    def compute_slice(pixels: tf.Tensor, targets: tuple[tf.Tensor, Any], counts: tf.Tensor) -> tuple:
        numbers, wanted = targets
        return numbers, step(pixels), wanted

    compute_slices = tf.function(lambda slices: team.strategy.run(compute_slice, slices), reduce_retracing=True)
    batches = iter(team.batches(lambda share: ordered_batches(numbered, batch_size, with_number, share, view)))
    for _ in range(steps_per_epoch(files, batch_size)):
        numbers, features, targets = tf.nest.map_structure(team.gather, compute_slices(next(batches)))
        # The slices come in no order to rely on, and those of a small last batch are all the same.
        _, order = np.unique(numbers, return_index=True)
        yield features[order], tf.nest.map_structure(lambda part, order=order: part[order], targets)


def _is_whole(folder: str) -> bool:
    """Whether every file is there and none has been damaged since it was written."""
    try:
        with open(os.path.join(folder, _COMPLETE), encoding="utf-8") as file:
            sums = json.load(file)
        return all(_checksum(os.path.join(folder, name)) == value for name, value in sums.items())
    except (OSError, ValueError):
        return False


def _target_paths(folder: str) -> list[str]:
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.startswith("target")]


def _checksum(path: str) -> int:
    value = 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            value = zlib.crc32(chunk, value)
    return value
