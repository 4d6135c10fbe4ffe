"""A frozen backbone computes the same features for an image in every epoch, so they are computed once and kept.

The model is cut behind the last layer that has neither weights to train nor chance in it. The front part fills a
file of features, one row per image; the rest, a model that shares its layers with the whole, trains on that file.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.config import is_op_determinism_enabled

from data import resumable
from data.augment import constants
from data.batches import Batches
from data.decode import RULES
from data.files import cache_folder
from data.progress import progress
from training.distributed.strategy import ALONE, Distribution
from training.heads import Objective


class Front(keras.Model):
    """The first part of a model, from pixels to features."""

    @functools.cached_property
    def compute(self) -> Any:
        """A `tf.function`: the features of a batch in float32, by one graph for all data sets."""

        @tf.function(autograph=False, reduce_retracing=True)
        def features_of(pixels: tf.Tensor) -> tf.Tensor:
            return tf.cast(self(pixels, training=False), tf.float32)

        return features_of


def cut(model: keras.Model) -> tuple[Front, keras.Model]:
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
    return Front(pixels, features, name="front"), keras.Model(entrance, rest, name="rest")


def compute(
    front: Front,
    batches: Batches,
    digests: list[str],
    objective: Objective,
    title: str,
    team: Distribution = ALONE,
    views: Sequence[int | None] = (None,),
    is_due: Callable[[], bool] = lambda: False,
) -> Batches:
    """The features and targets of all images, from an earlier run where nothing that they depend on has changed.

    An earlier run that was killed has left those that it had made sure of, and the rest is computed.

    Args:
        front: the first part of `cut`.
        batches: of the images; the features don't depend on their size beyond rounding.
        digests: a hash of each image's content.
        objective: makes the targets.
        title: of the progress line.
        team: computes them together; each of its workers reads its share of the images and keeps all features.
        views: looks at each image, see `Batches.view`, which become the views of the features.
        is_due: asked after each batch whether to make sure that a kill doesn't lose the features so far; what it
            raises ends the computation. All workers must get the same answer.
    """
    images = replace(batches, targets=objective.targets, service=None)
    work = _Work(front, images, objective, team, views)
    # Workers on one machine must not write to the same files.
    place = "features" if team.is_chief else f"features-of-worker-{team.worker}"
    folder = os.path.join(cache_folder(), place, _key(work, digests))
    columns = resumable.read(folder)
    if not team.all(columns is not None):
        _fill(folder, work, title, is_due)
        columns = None
    inputs, *targets = columns or resumable.just_filled(folder)
    labels = tf.nest.pack_sequence_as(_example(work), list(map(np.array, targets)))
    return Batches(inputs, labels, batch_size=batches.batch_size, seed=batches.seed, views=len(views))


@dataclass(frozen=True)
class _Work:
    """The features and targets to compute: of all views of all images, view after view, in batches."""

    front: Front
    batches: Batches
    objective: Objective
    team: Distribution
    views: Sequence[int | None]

    @property
    def rows(self) -> int:
        return len(self.batches) * len(self.views)

    @property
    def steps(self) -> int:
        return self.batches.steps_per_epoch * len(self.views)

    def rows_before(self, step: int) -> int:
        view, step = divmod(step, self.batches.steps_per_epoch)
        return view * len(self.batches) + step * self.batches.batch_size

    def steps_in(self, rows: int) -> int:
        """How many whole steps the first `rows` rows hold."""
        view, row = divmod(rows, len(self.batches))
        return view * self.batches.steps_per_epoch + row // self.batches.batch_size

    def passes(self, step: int) -> Iterator[tuple[Batches, int]]:
        """(batches of a view, first step in them) of what there is to compute from `step` on."""
        view, first_step = divmod(step, self.batches.steps_per_epoch)
        for rest in self.views[view:]:
            yield replace(self.batches, view=rest), first_step
            first_step = 0


def _fill(folder: str, work: _Work, title: str, is_due: Callable[[], bool]) -> None:
    targets = tf.nest.flatten(_example(work))
    columns = [(tuple(target.shape[1:]), np.dtype(target.dtype.as_numpy_dtype)) for target in targets]
    columns.insert(0, (work.front.output_shape[1:], np.dtype(np.float32)))
    with resumable.filling(folder, columns, work.rows) as table:
        # Batches begin where they do in a computation that nobody has disturbed, and in all workers at once.
        first = work.steps_in(_least(work.team, table.rows))
        table.keep_first(work.rows_before(first))
        if table.rows:
            print(f"Going on with {title}: {table.rows:,} of {work.rows:,} are there.", file=sys.stderr)
        for features, target in progress(_forward(work, first), work.steps - first, title):
            table.append(features, *tf.nest.flatten(target))
            if is_due():
                table.save()


def _least(team: Distribution, value: int) -> int:
    """The lowest of all workers' values."""
    values = np.zeros(team.workers, np.int64)
    values[team.worker] = value
    return int(team.sum(values).min())


def _example(work: _Work) -> Any:
    """Targets of one image, for their structure, shapes and types."""
    columns = {name: tf.constant(values[:1]) for name, values in work.batches.dataset.columns.items()}
    return work.objective.targets(tf.zeros((1, 1, 1, 1)), tf.zeros((1,), tf.int64), columns)


def _is_fixed(layer: keras.layers.Layer) -> bool:
    return not layer.weights and not isinstance(layer, keras.layers.Dropout)


def _key(work: _Work, digests: list[str]) -> str:
    """Names everything that the features depend on, so that a change of any of it asks for other features."""
    front, batches, objective = work.front, work.batches, work.objective
    digest = hashlib.sha256()
    for variable in front.variables:
        digest.update(np.ascontiguousarray(variable.numpy()).tobytes())
    # The configuration holds preprocessing, strides and precision, which no weight shows.
    digest.update(json.dumps(front.get_config(), sort_keys=True, default=str).encode())
    facts: tuple = (keras.__version__, tf.__version__, RULES, batches.image_size, batches.channels)
    # Of the objective, what the targets depend on: other weights of the losses ask for no other features.
    dataset = batches.dataset
    facts += ([(head.name, len(head.class_names)) for head in objective.heads], digests, dataset.labels.tolist())
    facts += ({name: values.tolist() for name, values in dataset.columns.items()},)
    facts += (work.views, () if work.views == (None,) else (batches.seed, constants(batches.augment)))
    # What moves the last bits must not come from another run's cache where the last bits count.
    facts += (batches.batch_size, work.team.shard.slices) if is_op_determinism_enabled() else ()
    digest.update(repr(facts).encode())
    return digest.hexdigest()[:20]


def _forward(work: _Work, first: int) -> Iterator[tuple[Any, Any]]:
    """Features and targets of each batch from step `first` on."""
    for batches, first_step in work.passes(first):
        if work.team.is_single:
            dataset = batches.evaluation(first_step)
            # Traced for any number of images from the start; else a smaller last batch would be traced again.
            compute = work.front.compute.get_concrete_function(dataset.element_spec[0])
            yield from ((compute(pixels), targets) for pixels, targets in dataset)
        else:
            yield from _forward_together(work, batches, first_step)


def _forward_together(work: _Work, batches: Batches, first_step: int) -> Iterator[tuple[Any, Any]]:
    """The same batches in every worker, though each computes its slices only."""
    dataset, team = batches.dataset, work.team
    labels = tf.constant(dataset.labels)

    def with_number(pixels: tf.Tensor, numbers: tf.Tensor, columns: dict[str, tf.Tensor]) -> tuple[tf.Tensor, Any]:
        return numbers, work.objective.targets(pixels, tf.gather(labels, numbers), columns)

    def compute_slice(pixels: tf.Tensor, targets: tuple[tf.Tensor, Any], counts: tf.Tensor) -> tuple:
        numbers, wanted = targets
        return numbers, work.front.compute(pixels), wanted

    compute_slices = tf.function(lambda slices: team.strategy.run(compute_slice, slices), reduce_retracing=True)
    numbered = replace(batches, inputs=replace(dataset, labels=np.arange(len(dataset))), targets=with_number)
    slices = iter(team.evaluation(numbered, first_step))
    for _ in range(first_step, batches.steps_per_epoch):
        numbers, features, targets = tf.nest.map_structure(team.gather, compute_slices(next(slices)))
        # The slices come in no order to rely on, and those of a small last batch are all the same.
        _, order = np.unique(numbers, return_index=True)
        yield features[order], tf.nest.map_structure(lambda part, order=order: part[order], targets)
