"""The answers of a trained model to the images of a split, which the whole report shares, or to any image files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from data.decode import decode
from data.image_header import LARGEST_BYTES, TOO_MANY_BYTES, read_header
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
        targets: targets of the further heads, by head; only of heads whose targets are known.
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

    @cached_property
    def errors(self) -> np.ndarray:
        """Indices of the misclassified images, the most confident prediction first."""
        wrong = np.flatnonzero(~self.correct)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")]


# Called with a split, a batch size, and a title for the progress line.
Predictor = Callable[[Split, int, str], Predictions]
Answer = Callable[[np.ndarray | tf.Tensor], Answers]
_AnswerRows = Callable[[Split, range, tf.Tensor], Answers]


def answering(model: keras.Model, heads: Sequence[Head]) -> Answer:
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
    return partial(_predict, lambda split, rows, pixels: answer(pixels), heads)


def from_saved_model(folder: str, heads: Sequence[Head]) -> Predictor:
    """Predicts with the SavedModel itself, from encoded files, as a server does.

    Raises:
        UserError: `folder` holds no SavedModel of this project, or one with other classes.
    """
    serve = _load_signature(folder)
    names = heads[0].class_names

    def answer(split: Split, rows: range, pixels: tf.Tensor) -> Answers:
        encoded = tf.constant([split.encoded(i) for i in rows])
        answers = {name: _as_array(value) for name, value in serve(image_bytes=encoded).items()}
        _check_classes(answers, names, folder)
        return answers

    return partial(_predict, answer, heads)


def _predict(answer: _AnswerRows, heads: Sequence[Head], split: Split, batch_size: int, title: str) -> Predictions:
    """Keeps only the answers, so that memory doesn't grow with the pixels."""
    steps = -(-len(split) // batch_size)
    answers, targets = [], []
    for step, pixels in enumerate(progress(split.pixels(batch_size), steps, f"{title} (batches of {batch_size})")):
        rows = range(step * batch_size, step * batch_size + len(pixels))
        answers.append(answer(split, rows, pixels))
        targets.append(_targets(heads, split, slice(rows.start, rows.stop), pixels))
    joined = _joined(answers)
    return Predictions(split.labels, joined["probabilities"], joined, _joined(targets))


def _targets(heads: Sequence[Head], split: Split, rows: slice, pixels: tf.Tensor) -> Answers:
    """The targets of a batch, for the further heads whose columns the data set has."""
    labels = tf.constant(split.labels[rows])
    columns = {name: tf.constant(values[rows]) for name, values in split.dataset.columns.items()}
    return {head.name: _as_array(head.target(pixels, labels, columns)) for head in further(heads, columns)}


def _joined(batches: Sequence[Answers]) -> Answers:
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _as_array(values: tf.Tensor | np.ndarray) -> np.ndarray:
    """Numbers in float64, text as it is."""
    array = np.asarray(values)
    return array if array.dtype == object else array.astype(np.float64)


def _load_signature(folder: str) -> Callable:
    if not tf.saved_model.contains_saved_model(folder):
        raise UserError(
            f"`export` must be a SavedModel that export.py has written, or a folder of its versions 1, 2, ... "
            f"Received: {folder}. Run export.py first."
        )
    loaded = saved_models.load(folder)
    serve = loaded.signatures.get("serving_default")
    if serve is None or "image_bytes" not in serve.structured_input_signature[1]:
        raise UserError(f"The SavedModel in {folder} must take image_bytes in serving_default. Export the run again.")
    # The signature's variables live only as long as the loaded object.
    serve.loaded = loaded
    return serve


def _check_classes(answers: Answers, class_names: tuple[str, ...], folder: str) -> None:
    """Refuses the SavedModel of another run, which would answer with other classes."""
    expected = [name.encode() for name in class_names]
    found = answers["probabilities"]
    fits = found.shape[1] == len(expected)
    if not fits or [expected[i] for i in found.argmax(axis=1)] != answers["label"].tolist():
        raise UserError(
            f"The SavedModel in {folder} must read each image and have the classes of this run, "
            f"{', '.join(class_names)}. Received: {found.shape[1]} classes, and the label {answers['label'][0]!r}."
        )


def find_files(places: Iterable[str]) -> list[str]:
    """The files among `places`, and all visible files below the folders among them, sorted per folder."""
    return [path for place in places for path in (sorted(_below(place)) if _is_folder(place) else [place])]


def of_files(
    paths: Sequence[str], answer: Answer, *, image_size: int, channels: int, batch_size: int
) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The answers to image files, in order; one that can't be read doesn't affect the others.

    Memory doesn't grow with their number: one batch is read ahead while the network computes.

    Args:
        paths: local, or on any file system of `tf.io.gfile`.
        answer: made by `answering`.
        image_size: height and width that the network sees, in px.
        channels: 3 (RGB) or 1 (gray).
        batch_size: images per step.

    Yields:
        `(path, answers, error)`: the answers of all heads by name, as Python values, or why there are none.
    """
    read = partial(_read, image_size=image_size, channels=channels)
    with ThreadPoolExecutor(max_workers=min(16, 2 * (os.cpu_count() or 1))) as pool:
        batches = (paths[i : i + batch_size] for i in range(0, len(paths), batch_size))
        ahead = [(batch, pool.map(read, batch)) for batch in islice(batches, 1)]
        while ahead:
            batch, pixels = ahead.pop()
            ahead = [(following, pool.map(read, following)) for following in islice(batches, 1)]
            yield from _answered(batch, list(pixels), answer)


def _answered(
    paths: Sequence[str], pixels: list[np.ndarray | str], answer: Answer
) -> Iterator[tuple[str, dict[str, Any], str]]:
    good = [image for image in pixels if not isinstance(image, str)]
    answers = answer(np.stack(good)) if good else {}
    rows = iter(range(len(good)))
    for path, image in zip(paths, pixels, strict=True):
        if isinstance(image, str):
            yield path, {}, image
        else:
            row = next(rows)
            yield path, {name: _plain(values[row]) for name, values in answers.items()}, ""


def _plain(value: np.ndarray | np.float64 | bytes) -> Any:
    return value.decode() if isinstance(value, bytes) else value.tolist()


def _read(path: str, image_size: int, channels: int) -> np.ndarray | str:
    """Pixels, or why there are none."""
    try:
        encoded = _read_remote(path) if "://" in path else _read_local(path)
    except OSError as error:
        return f"can't be read: {(error.strerror or 'unknown reason').lower()}"
    except tf.errors.OpError as error:
        return f"can't be read: {error.message}"
    if isinstance(encoded, str):
        return encoded
    # A few bytes can claim to be a gigapixel image, so the header is checked before decoding.
    if problem := read_header(encoded).problem:
        return problem
    try:
        return decode(tf.constant(encoded), image_size, channels).numpy()
    except tf.errors.OpError:
        return "damaged or cut off"


def _read_local(path: str) -> bytes | str:
    """A file's bytes, or why they aren't read."""
    # Opening a named pipe would wait forever, and reading a video would fill the memory.
    if not os.path.isfile(path):
        return "no such file" if not os.path.exists(path) else "not a file"
    if os.path.getsize(path) > LARGEST_BYTES:
        return TOO_MANY_BYTES
    with open(path, "rb") as file:
        return file.read()


def _read_remote(path: str) -> bytes | str:
    if tf.io.gfile.stat(path).length > LARGEST_BYTES:
        return TOO_MANY_BYTES
    with tf.io.gfile.GFile(path, "rb") as file:
        return file.read()


def _is_folder(place: str) -> bool:
    return tf.io.gfile.isdir(place) if "://" in place else os.path.isdir(place)


def _below(folder: str) -> Iterator[str]:
    for parent, folders, names in (tf.io.gfile.walk if "://" in folder else os.walk)(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(parent, name) for name in names if not name.startswith("."))
