"""The images of the report: errors, evidence, copies, and what augmentation does."""

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
from evaluation import gradcam, svg
from evaluation.assess import Assessment, evenly
from training.run import Split

WORST = 24
_EXPLAINED = 6
_COPIES = 8
_VERSIONS = 9


@dataclass(frozen=True)
class Exhibit:
    """One image with what was said of it; `image` and `heat` are `data:` addresses."""

    image: str
    address: str
    label: str
    predicted: str
    confidence: float
    heat: str = ""

    @property
    def is_right(self) -> bool:
        """Whether label and prediction agree."""
        return self.label == self.predicted


def worst_errors(assessment: Assessment) -> list[Exhibit]:
    """The wrong answers that were given with the most confidence."""
    return [_exhibit(assessment, i) for i in wrong_first_by_confidence(assessment)[:WORST]]


def wrong_first_by_confidence(assessment: Assessment) -> np.ndarray:
    """Indices of all wrong answers, the most confident first."""
    predictions = assessment.predictions
    wrong = np.flatnonzero(~predictions.correct)
    return wrong[np.argsort(-predictions.confidence[wrong], kind="stable")]


def evidence(assessment: Assessment, model: keras.Model) -> dict[str, list[Exhibit]] | None:
    """Grad-CAM of the predicted class over right answers and over the worst errors.

    None for a network without convolutions.
    """
    groups = {"right": _right_of_all_kinds(assessment), "wrong": wrong_first_by_confidence(assessment)[:_EXPLAINED]}
    explained = {name: _explain(assessment, model, chosen) for name, chosen in groups.items() if len(chosen)}
    return None if None in explained.values() else explained  # type: ignore[return-value]


def copies(assessment: Assessment) -> list[dict[str, Any]]:
    """The most similar pairs of a test and a training image."""
    split, train = assessment.subject.split, assessment.train
    if train is None:
        return []
    return [
        {
            "test": svg.thumbnail(split.encoded(i)),
            "test_address": printable(split.addresses[i]),
            "train": svg.thumbnail(train.encoded(j)),
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
    return [svg.from_pixels(version) for version in tf.saturate_cast(tf.round(versions), tf.uint8).numpy()]


def _right_of_all_kinds(assessment: Assessment) -> np.ndarray:
    """Indices of right answers from several classes, sure and less sure ones of each."""
    predictions = assessment.predictions
    right = np.flatnonzero(predictions.correct)
    classes = evenly(np.unique(predictions.labels[right]), _EXPLAINED)
    chosen = []
    for label in classes:
        members = right[predictions.labels[right] == label]
        members = members[np.argsort(-predictions.confidence[members], kind="stable")]
        chosen += list(evenly(members, _EXPLAINED // len(classes)))
    return np.asarray(chosen, np.int64)


def _explain(assessment: Assessment, model: keras.Model, chosen: np.ndarray) -> list[Exhibit] | None:
    split = assessment.subject.split
    pixels = _pixels(split, chosen)
    heat = gradcam.explain(model, pixels, assessment.predictions.predicted[chosen])
    if heat is None:
        return None
    shown = zip(chosen, pixels, heat, strict=True)
    return [_exhibit(assessment, i, image, svg.from_pixels(gradcam.overlay(image, warm))) for i, image, warm in shown]


def _pixels(split: Split, chosen: Iterable[int]) -> np.ndarray:
    """uint8 (images, image_size, image_size, channels): a few, for which a tf.data pipeline takes longer to build."""
    encoded = (tf.constant(split.encoded(i)) for i in chosen)
    return np.stack([decode(image, split.image_size, split.channels).numpy() for image in encoded])


def _exhibit(assessment: Assessment, index: int, pixels: np.ndarray | None = None, heat: str = "") -> Exhibit:
    split, predictions = assessment.subject.split, assessment.predictions
    names = assessment.subject.class_names
    return Exhibit(
        image=svg.thumbnail(split.encoded(index)) if pixels is None else svg.from_pixels(pixels),
        address=printable(split.addresses[index]),
        label=names[predictions.labels[index]],
        predicted=names[predictions.predicted[index]],
        confidence=float(predictions.confidence[index]),
        heat=heat,
    )
