"""What a trained model says about images: the one pass over them that every number and plot of the report shares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import keras
import numpy as np
import tensorflow as tf

from data.progress import progress
from errors import UserError
from models import saved_models
from training.heads import Head, by_head, further
from training.run import Split

Answers = dict[str, np.ndarray]


@dataclass(frozen=True)
class Predictions:
    """The answers to the images of one split, in its order.

    Attributes:
        labels: int64 class indices, shape `(images,)`.
        probabilities: float64 in 0-1, shape `(images, classes)`, two columns for two classes.
        answers: all answers by name, those of further heads too (see `training.heads.Head.answer`).
        targets: what the further heads should have answered, by head; nothing of those whose targets aren't known.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    answers: Mapping[str, np.ndarray] = field(default_factory=dict)
    targets: Mapping[str, np.ndarray] = field(default_factory=dict)

    @cached_property
    def predicted(self) -> np.ndarray:
        """Index of the most probable class of each image; the first one where two are equal."""
        return self.probabilities.argmax(axis=1)

    @cached_property
    def confidence(self) -> np.ndarray:
        """Probability of the predicted class, in 0-1."""
        return self.probabilities.max(axis=1)

    @cached_property
    def correct(self) -> np.ndarray:
        """Whether the prediction is the label."""
        return self.predicted == self.labels


Predictor = Callable[[Split, int, str], Predictions]


def answering(model: keras.Model, heads: Sequence[Head]) -> Callable[[np.ndarray | tf.Tensor], Answers]:
    """A function from pixels (batch, height, width, channels) in 0-255 to the answers of all heads, in float64."""
    call = tf.function(lambda pixels: model(pixels, training=False), reduce_retracing=True)

    def answer(pixels: np.ndarray | tf.Tensor) -> Answers:
        outputs = by_head(call(tf.convert_to_tensor(pixels)))
        found = [head.answer(_as_array(outputs[head.name])) for head in heads]
        return {name: _as_array(value) for answers in found for name, value in answers.items()}

    return answer


def from_model(model: keras.Model, heads: Sequence[Head]) -> Predictor:
    """Predicts with a Keras model, from the same pixels that training sees."""
    answer = answering(model, heads)

    def predict(split: Split, batch_size: int, title: str) -> Predictions:
        batches = enumerate(_pixels(split, batch_size, title))
        return _collect(
            split, ((answer(pixels), _targets(heads, split, i * batch_size, pixels)) for i, pixels in batches)
        )

    return predict


def from_saved_model(folder: str, heads: Sequence[Head]) -> Predictor:
    """Predicts with the SavedModel itself: encoded files in, as a server gets them.

    Raises:
        UserError: `folder` holds no SavedModel of this project, or one of other classes.
    """
    serve = _load_signature(folder)
    names = next(head.class_names for head in heads)

    def answered(split: Split, start: int, pixels: tf.Tensor) -> tuple[Answers, Answers]:
        return _checked(_serve(serve, split, start, len(pixels)), names, folder), _targets(heads, split, start, pixels)

    def predict(split: Split, batch_size: int, title: str) -> Predictions:
        batches = enumerate(_pixels(split, batch_size, title))
        return _collect(split, (answered(split, i * batch_size, pixels) for i, pixels in batches))

    return predict


def _pixels(split: Split, batch_size: int, title: str) -> Iterable[tf.Tensor]:
    steps = -(-len(split) // batch_size)
    return progress(split.pixels(batch_size), steps, f"{title} (batches of {batch_size})")


def _as_array(values: tf.Tensor | np.ndarray) -> np.ndarray:
    """Numbers in float64, text as it is."""
    array = np.asarray(values)
    return array if array.dtype == object else array.astype(np.float64)


def _targets(heads: Sequence[Head], split: Split, start: int, pixels: tf.Tensor) -> Answers:
    """What the further heads should answer for a batch, as far as the images have what that is made from."""
    rows = slice(start, start + len(pixels))
    labels = tf.constant(split.labels[rows])
    columns = {name: tf.constant(values[rows]) for name, values in split.dataset.columns.items()}
    return {head.name: _as_array(head.target(pixels, labels, columns)) for head in further(heads, columns)}


def _collect(split: Split, batches: Iterable[tuple[Answers, Answers]]) -> Predictions:
    """Keeps the answers only, so that memory doesn't grow with the pixels."""
    answers, targets = (
        {name: np.concatenate([batch[name] for batch in column]) for name in column[0]}
        for column in zip(*batches, strict=True)
    )
    return Predictions(split.labels, answers["probabilities"], answers, targets)


def _load_signature(folder: str) -> Callable:
    if not tf.saved_model.contains_saved_model(folder):
        raise UserError(
            f"--export must be a SavedModel that export.py has written, or a folder of its versions 1, 2, ... "
            f"Received: --export={folder}. Run export.py first."
        )
    loaded = saved_models.load(folder)
    serve = loaded.signatures.get("serving_default")
    if serve is None or "image_bytes" not in serve.structured_input_signature[1]:
        raise UserError(f"The SavedModel in {folder} must take image_bytes in serving_default. Export the run again.")
    # The signature's variables live as long as the object that it was loaded with.
    serve.loaded = loaded
    return serve


def _serve(serve: Callable, split: Split, start: int, count: int) -> Answers:
    encoded = [split.encoded(i) for i in range(start, start + count)]
    return {name: _as_array(value) for name, value in serve(image_bytes=tf.constant(encoded)).items()}


def _checked(answers: Answers, class_names: tuple[str, ...], folder: str) -> Answers:
    """A SavedModel of another run would answer too, in other classes."""
    expected = [name.encode() for name in class_names]
    found = answers["probabilities"]
    fits = found.shape[1] == len(expected)
    if not fits or [expected[i] for i in found.argmax(axis=1)] != answers["label"].tolist():
        raise UserError(
            f"The SavedModel in {folder} must read each image and have the classes of this run, "
            f"{', '.join(class_names)}. Received: {found.shape[1]} classes, and the label {answers['label'][0]!r}."
        )
    return answers
