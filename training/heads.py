"""The heads of a model, an object for each output: target, loss, metrics, answer, and how it is evaluated.

Training, evaluation, prediction and serving iterate over them. Every model has the head `class`, which the report is
about; any other head adds a section to it. To add one, see docs/extending.md.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from scipy.special import expit, softmax

import models
from data.names import printable, shortened
from errors import UserError
from training import curves

Columns = Mapping[str, tf.Tensor]
Answers = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Head(abc.ABC):
    """One output of a model.

    Attributes:
        class_names: in index order.
        loss_weight: the weight of its loss where there are several heads.
        name: of the model's output.
        needs: names of the data set's columns (see `data.dataset.Dataset`) that its target is made from.
    """

    class_names: tuple[str, ...] = ()
    loss_weight: float = 1.0
    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def target(self, pixels: tf.Tensor, labels: tf.Tensor, columns: Columns) -> tf.Tensor:
        """Targets of a batch, in the shape of the output.

        Args:
            pixels: what the model sees, after augmentation: `(batch, height, width, channels)` in 0-255.
            labels: `(batch,)` class indices.
            columns: further values of the images by name, each `(batch,)`.
        """

    @abc.abstractmethod
    def loss(self) -> keras.losses.Loss:
        """The loss to minimize, a fresh one at each call."""

    @abc.abstractmethod
    def metrics(self) -> list[keras.metrics.Metric]:
        """Fresh metrics; the one named `loss` is the loss over all images, see `count_every_image`."""

    @abc.abstractmethod
    def answer(self, output: tf.Tensor | np.ndarray) -> dict[str, tf.Tensor]:
        """What a server returns for a batch of outputs, by name; each value has a batch dimension.

        A head other than `class` returns one value, under its name.
        """


@dataclass(frozen=True)
class ClassHead(Head):
    """The class of the image, from logits. Two classes share one logit, above 0 for the second one."""

    name: ClassVar[str] = "class"

    def target(self, pixels: tf.Tensor, labels: tf.Tensor, columns: Columns) -> tf.Tensor:
        """0 or 1, shape `(batch, 1)`, for two classes; one-hot rows, shape `(batch, classes)`, for more."""
        if len(self.class_names) == 2:
            return tf.cast(labels, tf.float32)[:, tf.newaxis]
        return tf.one_hot(labels, len(self.class_names))

    def loss(self) -> keras.losses.Loss:
        """Cross-entropy."""
        if len(self.class_names) == 2:
            return keras.losses.BinaryCrossentropy(from_logits=True)
        return keras.losses.CategoricalCrossentropy(from_logits=True)

    def metrics(self) -> list[keras.metrics.Metric]:
        """Accuracy, and the loss."""
        if len(self.class_names) == 2:
            # The default threshold of 0.5 is meant for probabilities; of logits it asks for a probability of 0.62.
            accuracy = keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy")
            return [accuracy, keras.metrics.BinaryCrossentropy(from_logits=True, name="loss")]
        accuracy = keras.metrics.CategoricalAccuracy(name="accuracy")
        return [accuracy, keras.metrics.CategoricalCrossentropy(from_logits=True, name="loss")]

    def answer(self, output: tf.Tensor | np.ndarray) -> dict[str, tf.Tensor]:
        """`label`, `score` (the label's probability) and `probabilities`, `(batch, classes)`."""
        found = probabilities(output)
        label = tf.gather(tf.constant(self.class_names), tf.argmax(found, axis=-1))
        return {"label": label, "score": tf.reduce_max(found, -1), "probabilities": found}


class FurtherHead(Head):
    """A head other than `class`, with a section in metrics.json and in the report, and a row on the model card.

    Attributes:
        title: heading of its section.
        caption: what its figure shows.
        measures: name and hint (may be empty) of each key of `measure`. The first key is on the model card.
        scale: unit or range of the target.
    """

    title: ClassVar[str]
    caption: ClassVar[str]
    measures: dict[str, tuple[str, str]]
    scale: str

    @abc.abstractmethod
    def measure(self, targets: np.ndarray, answers: Answers) -> dict[str, float | None]:
        """Its section of metrics.json, from the targets of all images and what `answer` returned for them."""

    @abc.abstractmethod
    def figure(self, targets: np.ndarray, answers: Answers) -> Figure:
        """The plot of its section; the arguments are those of `measure`."""


class NumberHead(FurtherHead):
    """A head that estimates one number per image, trained on the squared error; subclasses define the number.

    Attributes:
        axis: axis title of the target, with its unit.
        limits: the smallest and the largest target to plot.
        unit: of the number; empty if it has none, and its limits are shown instead.
    """

    axis: ClassVar[str]
    limits: ClassVar[tuple[float, float]]
    unit: ClassVar[str] = ""

    def loss(self) -> keras.losses.Loss:
        """Mean squared error."""
        return keras.losses.MeanSquaredError()

    def metrics(self) -> list[keras.metrics.Metric]:
        """Mean absolute error, and the loss."""
        return [keras.metrics.MeanAbsoluteError(name="mae"), keras.metrics.MeanSquaredError(name="loss")]

    def answer(self, output: tf.Tensor | np.ndarray) -> dict[str, tf.Tensor]:
        """The number, `(batch,)`."""
        return {self.name: tf.squeeze(output, axis=-1)}

    def measure(self, targets: np.ndarray, answers: Answers) -> dict[str, float | None]:
        """Mean absolute and root mean squared error, and R², which is None for constant targets."""
        # It takes a second to import, and training doesn't need it.
        from sklearn import metrics as sk

        truth, estimates = targets[:, 0], answers[self.name]
        varies = len(truth) > 1 and float(np.ptp(truth)) > 0
        numbers = {
            "mae": float(sk.mean_absolute_error(truth, estimates)),
            "rmse": float(sk.root_mean_squared_error(truth, estimates)),
            "r2": float(sk.r2_score(truth, estimates)) if varies else None,
        }
        return {name: value if value is not None and np.isfinite(value) else None for name, value in numbers.items()}

    def figure(self, targets: np.ndarray, answers: Answers) -> Figure:
        """Estimates against targets, a point per image."""
        title = f"{self.title}: estimate against measurement"
        axes = (self.axis, f"estimated {self.name}")
        return curves.draw_estimates(targets[:, 0], answers[self.name], title, axes, self.limits)

    @property
    def scale(self) -> str:  # type: ignore[override]
        """The unit, or a range such as 0-1."""
        return self.unit or "{:g}-{:g}".format(*self.limits)

    @property
    def measures(self) -> dict[str, tuple[str, str]]:  # type: ignore[override]
        """See `FurtherHead`."""
        return {
            "mae": ("mean absolute error", self.unit or "{:g} to {:g}".format(*self.limits)),
            "rmse": ("root mean squared error", ""),
            "r2": ("R²", "1 is perfect, 0 is guessing the mean"),
        }


class BrightnessHead(NumberHead):
    """The mean of all pixels and channels of the image that the model sees, scaled from 0-255 to 0-1."""

    name = "brightness"
    title = "Brightness"
    caption = (
        "Each point is an image; on the dashed diagonal the estimate equals the measured mean of its pixels. Below "
        "it the model estimates an image as too dark."
    )
    axis = "measured mean brightness (0 black, 1 white)"
    limits = (0, 1)

    def target(self, pixels: tf.Tensor, labels: tf.Tensor, columns: Columns) -> tf.Tensor:
        """Shape `(batch, 1)`."""
        return tf.reduce_mean(tf.cast(pixels, tf.float32), axis=(1, 2, 3))[:, tf.newaxis] / 255.0


HEADS: dict[str, type[Head]] = {"class": ClassHead, "brightness": BrightnessHead}


def make(names: Iterable[str], class_names: Sequence[str], loss_weights: Mapping[str, float]) -> tuple[Head, ...]:
    """The heads `names`, in that order; a weight that isn't given is 1."""
    shown = tuple(printable(name) for name in class_names)
    return tuple(HEADS[name](shown, loss_weights.get(name, 1.0)) for name in names)


def heads_of(
    model_name: str, class_names: Sequence[str], loss_weights: Mapping[str, float] | None = None
) -> tuple[Head, ...]:
    """The heads of a model of the registry, with its default loss weights unless others are given."""
    spec = models.find(model_name)
    return make(spec.heads, class_names, loss_weights or dict(zip(spec.heads, spec.loss_weights, strict=True)))


def further(heads: Iterable[Head], columns: Iterable[str] | None = None) -> list[FurtherHead]:
    """The heads other than `class`; with `columns`, only those whose targets need no other columns."""
    found = [head for head in heads if isinstance(head, FurtherHead)]
    return found if columns is None else [head for head in found if set(head.needs) <= set(columns)]


def by_head(outputs: Any) -> dict[str, Any]:
    """A model's outputs by head; those of a model with one head are a tensor."""
    return outputs if isinstance(outputs, dict) else {ClassHead.name: outputs}


def check_columns(heads: Iterable[Head], data: str, columns: Iterable[str]) -> None:
    """Raises `UserError` where the data set `data` lacks a column that a target is made from."""
    wanted, received = [name for head in heads for name in head.needs], list(columns)
    if missing := [name for name in wanted if name not in received]:
        raise UserError(
            f"--data must have the {' and the '.join(missing)} of each image, which the model learns: a .csv of "
            f"{','.join(['path', 'label', *wanted])}. Received: --data={printable(data)}, with "
            f"{shortened(received) or 'no further columns'}. Add them, or choose another --model."
        )


def probabilities(logits: tf.Tensor | np.ndarray) -> Any:
    """Logits (batch, 1), positive for class 1, or (batch, classes) -> probabilities (batch, classes).

    Tensors keep their precision, as on a server; arrays are computed by SciPy in float64.
    """
    if tf.is_tensor(logits):
        sigmoid, join, by_class = tf.sigmoid, tf.concat, tf.nn.softmax
    else:
        logits, sigmoid, join, by_class = np.asarray(logits, np.float64), expit, np.concatenate, softmax
    two_classes = logits.shape[-1] == 1
    return join([sigmoid(-logits), sigmoid(logits)], axis=-1) if two_classes else by_class(logits, axis=-1)


@dataclass(frozen=True)
class Objective:
    """All heads of a model, as training uses them."""

    heads: tuple[Head, ...]

    def targets(self, pixels: tf.Tensor, labels: tf.Tensor, columns: Columns) -> Any:
        """Targets of a batch: a tensor for one head, else a dict by name. The arguments are those of `Head.target`."""
        targets = {head.name: head.target(pixels, labels, columns) for head in self.heads}
        return targets if len(targets) > 1 else targets[self.heads[0].name]

    def compile_arguments(self) -> dict[str, Any]:
        """`loss`, `metrics` and `loss_weights` for `keras.Model.compile`, fresh ones at each call."""
        if len(self.heads) == 1:
            # Keras computes the total loss right.
            metrics = [metric for metric in self.heads[0].metrics() if metric.name != "loss"]
            return {"loss": self.heads[0].loss(), "metrics": metrics}
        return {
            "loss": {head.name: head.loss() for head in self.heads},
            "metrics": {head.name: head.metrics() for head in self.heads},
            "loss_weights": {head.name: head.loss_weight for head in self.heads},
        }


def count_every_image(model: keras.Model) -> None:
    """Lets a compiled `model` report each head's loss by the metric of that name, which counts every image once.

    Keras 3.15.1 keeps means of its own under the same names (`class_loss`), and weights the batches by their static
    size, which isn't known: a small last batch counts as much as a whole one. Its total loss, and all metrics, count
    right since keras#19363.
    """
    model.get_metrics_result = functools.partial(_metrics_before_trackers, model)


def _metrics_before_trackers(model: keras.Model) -> dict[str, Any]:
    results: dict[str, Any] = {}
    # In the order of Keras: the total loss, the compiled metrics, Keras's own means.
    for metric in model.metrics:
        result = metric.result()
        for name, value in (result if isinstance(result, dict) else {metric.name: result}).items():
            results.setdefault(name, value)
    return results
