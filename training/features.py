"""A frozen backbone computes the same features for an image in every epoch, so they are computed once and kept.

The model is cut after the backbone and the first layers of the head that have neither weights nor randomness. The
front part fills a table of features, a row per image and view; the rest, which shares its layers, trains on it.
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

from data.augment import constants
from data.batches import Batches
from data.decode import RULES
from data.files import cache_folder
from data.progress import progress
from data.table import Batch, Column, Table
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
    # A subclassed model has no input shape, and preprocessing keeps the shape of the pixels.
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
    objective: Objective,
    title: str,
    distribution: Distribution = ALONE,
    views: Sequence[int | None] = (None,),
    check: Callable[[], object] = lambda: None,
    seconds: float = 60.0,
) -> Batches:
    """The features and targets of all images, reused from an earlier run if nothing that they depend on has changed.

    Of an earlier run that was killed, the saved rows are reused and the others computed.

    Args:
        front: the first part of `cut`.
        batches: the images; the features don't depend on the batch size beyond rounding.
        objective: makes the targets.
        title: of the progress line.
        distribution: computes them together; each of its workers reads its share of the images and keeps all features.
        views: views of each image, see `Batches.view`, which become the views of the features.
        check: called after each batch; what it raises ends the computation. It must raise in all workers at once.
        seconds: computing time that a kill may cost; 0 for no more than a batch.

    Raises:
        UserError: the disk is full, or the cache can't be written to.
    """
    work = _Work(front, replace(batches, targets=objective.targets, service=None), objective, distribution, views)
    # Workers on one machine must not write to the same files.
    place = "features" if distribution.is_chief else f"features-of-worker-{distribution.worker}"
    table = Table(os.path.join(cache_folder(), place, _key(work)), work.columns, work.rows)
    kept = table.read()
    if not distribution.all(kept is not None):
        kept = table.fill(lambda safe: _missing(work, safe, title, check), seconds)
    inputs, *targets = kept or []
    labels = tf.nest.pack_sequence_as(work.example, list(map(np.array, targets)))
    return Batches(inputs, labels, batch_size=batches.batch_size, seed=batches.seed, views=len(views))


@dataclass(frozen=True)
class _Work:
    """The features and targets to compute: of all views of all images, view after view, in batches."""

    front: Front
    batches: Batches
    objective: Objective
    distribution: Distribution
    views: Sequence[int | None]

    @property
    def rows(self) -> int:
        return len(self.batches) * len(self.views)

    @functools.cached_property
    def example(self) -> Any:
        """Targets of one image, for their structure, shapes and dtypes."""
        columns = {name: tf.constant(values[:1]) for name, values in self.batches.dataset.columns.items()}
        return self.objective.targets(tf.zeros((1, 1, 1, 1)), tf.zeros((1,), tf.int64), columns)

    @property
    def columns(self) -> list[Column]:
        """The column of the features, then one of each target."""
        targets = [(tuple(t.shape[1:]), np.dtype(t.dtype.as_numpy_dtype)) for t in tf.nest.flatten(self.example)]
        return [(self.front.output_shape[1:], np.dtype(np.float32)), *targets]


def _missing(work: _Work, safe: int, title: str, check: Callable[[], object]) -> Iterator[Batch]:
    """The batches after the first `safe` rows, or after fewer where another worker has fewer.

    They begin at the same row in all workers, where a batch of an uninterrupted computation begins.
    """
    size, steps = len(work.batches), work.batches.steps_per_epoch
    view, row = divmod(_least(work.distribution, safe), size)
    step = row // work.batches.batch_size
    row = view * size + step * work.batches.batch_size
    if row:
        print(f"Resuming {title}: {row:,} of {work.rows:,} are there.", file=sys.stderr)
    for features, targets in progress(_forward(work, view, step), (len(work.views) - view) * steps - step, title):
        yield row, [np.asarray(values) for values in (features, *tf.nest.flatten(targets))]
        row += len(features)
        check()


def _least(distribution: Distribution, value: int) -> int:
    """The lowest of all workers' values."""
    values = np.zeros(distribution.workers, np.int64)
    values[distribution.worker] = value
    return int(distribution.sum(values).min())


def _is_fixed(layer: keras.layers.Layer) -> bool:
    # Beside weights, variables hold the seeds of dropout and noise.
    return not layer.variables


def _key(work: _Work) -> str:
    """A hash of everything that the features depend on."""
    front, batches, objective = work.front, work.batches, work.objective
    digest = hashlib.sha256()
    for variable in front.variables:
        digest.update(np.ascontiguousarray(variable.numpy()).tobytes())
    # The configuration holds preprocessing, strides and precision, which no weight shows.
    digest.update(json.dumps(front.get_config(), sort_keys=True, default=str).encode())
    facts: tuple = (keras.__version__, tf.__version__, RULES, batches.image_size, batches.channels)
    # Of the objective, only what the targets depend on, which the loss weights are not.
    dataset = batches.dataset
    facts += (
        [(head.name, len(head.class_names)) for head in objective.heads],
        dataset.known_digests,
        dataset.labels.tolist(),
    )
    facts += ({name: values.tolist() for name, values in dataset.columns.items()},)
    facts += (work.views, () if work.views == (None,) else (batches.seed, constants(batches.augment)))
    # These change the last bits, which must not come from another run's cache if results are to be bit-identical.
    facts += (batches.batch_size, work.distribution.shard.slices) if is_op_determinism_enabled() else ()
    digest.update(repr(facts).encode())
    return digest.hexdigest()[:20]


def _forward(work: _Work, first_view: int, first_step: int) -> Iterator[tuple[Any, Any]]:
    """Features and targets of each batch, from step `first_step` of view `first_view`."""
    for view in work.views[first_view:]:
        batches = replace(work.batches, view=view)
        if work.distribution.is_single:
            dataset = batches.evaluation(first_step)
            # Traced for any number of images from the start; else a smaller last batch would be traced again.
            compute = work.front.compute.get_concrete_function(dataset.element_spec[0])
            yield from ((compute(pixels), targets) for pixels, targets in dataset)
        else:
            yield from _forward_together(work, batches, first_step)
        first_step = 0


def _forward_together(work: _Work, batches: Batches, first_step: int) -> Iterator[tuple[Any, Any]]:
    """The same batches in every worker, though each computes only its slices."""
    dataset, distribution = batches.dataset, work.distribution
    labels = tf.constant(dataset.labels)

    def with_number(pixels: tf.Tensor, numbers: tf.Tensor, columns: dict[str, tf.Tensor]) -> tuple[tf.Tensor, Any]:
        return numbers, work.objective.targets(pixels, tf.gather(labels, numbers), columns)

    def compute_slice(pixels: tf.Tensor, targets: tuple[tf.Tensor, Any], counts: tf.Tensor) -> tuple:
        numbers, wanted = targets
        return numbers, work.front.compute(pixels), wanted

    compute_slices = tf.function(lambda slices: distribution.strategy.run(compute_slice, slices), reduce_retracing=True)
    numbered = replace(batches, inputs=replace(dataset, labels=np.arange(len(dataset))), targets=with_number)
    slices = iter(distribution.evaluation(numbered, first_step))
    for _ in range(first_step, batches.steps_per_epoch):
        numbers, features, targets = tf.nest.map_structure(distribution.gather, compute_slices(next(slices)))
        # The slices come in no fixed order, and each is all of a last batch with fewer images than slices.
        _, order = np.unique(numbers, return_index=True)
        yield features[order], tf.nest.map_structure(lambda part, order=order: part[order], targets)
