"""What a trained model says about images: the one pass over them that every number and plot of the report shares."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import keras
import numpy as np
import tensorflow as tf
from scipy.special import expit, softmax

from data.names import printable
from data.progress import progress
from errors import UserError
from models import saved_models
from training.objective import brightness
from training.run import Split

_RETURNED = ("probabilities", "brightness")


@dataclass(frozen=True)
class Predictions:
    """The answers to the images of one split, in its order.

    Attributes:
        labels: int64 class indices, shape `(images,)`.
        probabilities: float64 in 0-1, shape `(images, classes)`, two columns for two classes.
        brightness: the second head's estimates in 0-1, shape `(images,)`; None for a model without it.
        brightness_targets: the measured mean brightness in 0-1, beside it.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    brightness: np.ndarray | None = None
    brightness_targets: np.ndarray | None = None

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


Answers = dict[str, np.ndarray]
Predictor = Callable[[Split, int, str], Predictions]


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Probabilities in float64, shape `(batch, classes)`, from logits `(batch, 1)` or `(batch, classes)`."""
    logits = np.asarray(logits, np.float64)
    if logits.shape[1] == 1:
        return np.concatenate([expit(-logits), expit(logits)], axis=1)
    return softmax(logits, axis=1)


def answering(model: keras.Model) -> Callable[[np.ndarray | tf.Tensor], Answers]:
    """A function from pixels (batch, height, width, channels) in 0-255 to `probabilities` and maybe `brightness`."""
    call = tf.function(lambda pixels: model(pixels, training=False), reduce_retracing=True)

    def answer(pixels: np.ndarray | tf.Tensor) -> Answers:
        outputs = call(tf.convert_to_tensor(pixels))
        heads = outputs if isinstance(outputs, dict) else {"class": outputs}
        answers = {"probabilities": probabilities(heads["class"].numpy())}
        if "brightness" in heads:
            answers["brightness"] = heads["brightness"].numpy()[:, 0].astype(np.float64)
        return answers

    return answer


def from_model(model: keras.Model) -> Predictor:
    """Predicts with a Keras model, from the same pixels that training sees."""
    answer = answering(model)

    def predict(split: Split, batch_size: int, title: str) -> Predictions:
        batches = _pixels(split, batch_size, title)
        return _collect(split, ({**answer(pixels), "targets": _brightness(pixels)} for pixels in batches))

    return predict


def from_saved_model(folder: str, class_names: tuple[str, ...]) -> Predictor:
    """Predicts with the SavedModel itself: encoded files in, as a server gets them.

    Raises:
        UserError: `folder` holds no SavedModel of this project, or one of other classes.
    """
    serve = _load_signature(folder)

    def predict(split: Split, batch_size: int, title: str) -> Predictions:
        batches = _pixels(split, batch_size, title)
        answers = (_serve_batch(serve, split, i * batch_size, pixels) for i, pixels in enumerate(batches))
        return _collect(split, _checked(answers, class_names, folder))

    return predict


def _pixels(split: Split, batch_size: int, title: str) -> Iterable[tf.Tensor]:
    steps = -(-len(split) // batch_size)
    return progress(split.pixels(batch_size), steps, f"{title} (batches of {batch_size})")


def _brightness(pixels: tf.Tensor) -> np.ndarray:
    return brightness(pixels).numpy()[:, 0].astype(np.float64)


def _collect(split: Split, batches: Iterable[Answers]) -> Predictions:
    """Keeps the answers only, so that memory doesn't grow with the pixels."""
    answers = list(batches)
    columns = {name: np.concatenate([batch[name] for batch in answers]) for name in answers[0]}
    if "brightness" not in columns:
        return Predictions(split.labels, columns["probabilities"])
    return Predictions(split.labels, columns["probabilities"], columns["brightness"], columns["targets"])


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


def _serve_batch(serve: Callable, split: Split, start: int, pixels: tf.Tensor) -> Answers:
    encoded = [split.encoded(i) for i in range(start, start + len(pixels))]
    answers = {name: value.numpy() for name, value in serve(image_bytes=tf.constant(encoded)).items()}
    return {**answers, "targets": _brightness(pixels)}


def _checked(batches: Iterable[Answers], class_names: tuple[str, ...], folder: str) -> Iterable[Answers]:
    """A SavedModel of another run would answer too, in other classes."""
    expected = [printable(name).encode() for name in class_names]
    for answers in batches:
        found = np.asarray(answers["probabilities"], np.float64)
        fits = found.shape[1] == len(expected)
        if not fits or [expected[i] for i in found.argmax(axis=1)] != answers["label"].tolist():
            raise UserError(
                f"The SavedModel in {folder} must read each image and have the classes of this run, "
                f"{', '.join(class_names)}. Received: {found.shape[1]} classes, and the label {answers['label'][0]!r}."
            )
        yield {name: answers[name].astype(np.float64) for name in (*_RETURNED, "targets") if name in answers}
