"""The example images of the report: worst errors, Grad-CAM, copies, and augmented versions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from data import augment
from data.decode import decode
from data.names import printable
from evaluation import gradcam, pages
from evaluation.assessment import Assessment, evenly
from training.run import Split

_WORST = 24
_EXPLAINED = 6
_COPIES = 8
_VERSIONS = 9


@dataclass(frozen=True)
class Example:
    """One image with its prediction; `image` and `heat` are data URLs."""

    image: str
    address: str
    label: str
    predicted: str
    confidence: float
    heat: str = ""

    @property
    def is_correct(self) -> bool:
        """Whether label and prediction agree."""
        return self.label == self.predicted


def worst_errors(assessment: Assessment) -> list[Example]:
    """The misclassified images with the most confident predictions."""
    return [_example(assessment, i) for i in assessment.predictions.errors[:_WORST]]


def grad_cam(assessment: Assessment, model: keras.Model) -> dict[str, list[Example]] | None:
    """Grad-CAM heat maps of the predicted class, for correct predictions and for the worst errors.

    None for a network without convolutions.
    """
    groups = {"correct": _correct_of_all_kinds(assessment), "wrong": assessment.predictions.errors[:_EXPLAINED]}
    explained = {name: _explain(assessment, model, chosen) for name, chosen in groups.items() if len(chosen)}
    return None if None in explained.values() else explained  # type: ignore[return-value]


def _correct_of_all_kinds(assessment: Assessment) -> np.ndarray:
    """Indices of correct predictions from several classes, with high and with low confidence in each."""
    predictions = assessment.predictions
    correct = np.flatnonzero(predictions.correct)
    classes = evenly(np.unique(predictions.labels[correct]), _EXPLAINED)
    chosen = []
    for label in classes:
        members = correct[predictions.labels[correct] == label]
        members = members[np.argsort(-predictions.confidence[members], kind="stable")]
        chosen += list(evenly(members, _EXPLAINED // len(classes)))
    return np.asarray(chosen, np.int64)


def _explain(assessment: Assessment, model: keras.Model, chosen: np.ndarray) -> list[Example] | None:
    pixels = _pixels(assessment.subject.split, chosen)
    heat = gradcam.explain(model, pixels, assessment.predictions.predicted[chosen])
    if heat is None:
        return None
    shown = zip(chosen, pixels, heat, strict=True)
    return [_example(assessment, i, image, pages.from_pixels(gradcam.overlay(image, warm))) for i, image, warm in shown]


def copies(assessment: Assessment) -> list[dict[str, Any]]:
    """The most similar pairs of a test and a training image."""
    split, train = assessment.subject.split, assessment.train
    if train is None:
        return []
    return [
        {
            "test": pages.thumbnail(split.encoded(i)),
            "test_address": printable(split.addresses[i]),
            "train": pages.thumbnail(train.encoded(j)),
            "train_address": printable(train.addresses[j]),
            "correlation": correlation,
        }
        for i, j, correlation in assessment.copies[:_COPIES]
    ]


def augmented(split: Split | None, level: str, seed: int) -> list[str]:
    """Nine versions of the first training image as training sees it; empty without augmentation or image."""
    layers = augment.layers(level)
    if not layers or split is None:
        return []
    pixels = tf.repeat(_pixels(split, [0]), _VERSIONS, axis=0)
    versions = augment.augmented(pixels, layers, tf.constant([seed, 0], tf.int64), _VERSIONS)
    return [pages.from_pixels(version) for version in tf.saturate_cast(tf.round(versions), tf.uint8).numpy()]


def _pixels(split: Split, chosen: Iterable[int]) -> np.ndarray:
    """uint8 (images, image_size, image_size, channels); for a few images a tf.data pipeline would take longer."""
    encoded = (tf.constant(split.encoded(i)) for i in chosen)
    return np.stack([decode(image, split.image_size, split.channels).numpy() for image in encoded])


def _example(assessment: Assessment, index: int, pixels: np.ndarray | None = None, heat: str = "") -> Example:
    split, predictions = assessment.subject.split, assessment.predictions
    names = assessment.subject.class_names
    return Example(
        image=pages.thumbnail(split.encoded(index)) if pixels is None else pages.from_pixels(pixels),
        address=printable(split.addresses[index]),
        label=names[predictions.labels[index]],
        predicted=names[predictions.predicted[index]],
        confidence=float(predictions.confidence[index]),
        heat=heat,
    )
