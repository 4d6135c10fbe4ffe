"""Exact metrics and calibration of a whole split at once, from labels and probabilities."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import binomtest
from sklearn import metrics as sk

CONFIDENCE_LEVEL = 0.95
# 15 equal bins of confidence, as in Guo et al.
BINS = 15

_SHARES = ("precision", "recall", "f1")

# Least number of classes -> k. With fewer classes, top-k accuracy says little.
_TOP_K_FROM_CLASSES = {20: 5, 6: 3}

# About exp(-34), close to the smallest number that float64 can add to 1.
_SMALLEST_PROBABILITY = 1e-15
_TEMPERATURES = (0.05, 20.0)


def classification(labels: np.ndarray, probabilities: np.ndarray, class_names: tuple[str, ...]) -> dict[str, Any]:
    """All numbers of one classifier on one split, ready for JSON.

    A class that occurs but is never predicted has precision 0, and one that is predicted but never occurs recall 0, as
    in scikit-learn with `zero_division=0`; F1 follows. A class that neither occurs nor is predicted has None and
    is left out of the means. What is not defined, such as the ROC-AUC where a class is missing, is None.

    Args:
        labels: int class indices, shape `(images,)`, one image at least.
        probabilities: in 0-1, shape `(images, classes)`, rows sum to 1; for two classes both columns.
        class_names: names in index order.

    Returns:
        `images`, `accuracy` with `accuracy_low` and `accuracy_high` (95 % Wilson), `balanced_accuracy`, `top_k`,
        `roc_auc` and `average_precision` (class 1 positive; None unless there are two classes), `log_loss`, `brier`,
        `ece`, `macro`, `classes` (precision, recall, f1, support), `confusion` (rows: label, columns: predicted).
    """
    probabilities = _normalized(probabilities)
    predicted = probabilities.argmax(axis=1)
    indices = np.arange(len(class_names))
    low, high = wilson(int((predicted == labels).sum()), len(labels))
    columns = sk.precision_recall_fscore_support(labels, predicted, labels=indices, zero_division=0)
    concerned = np.union1d(labels, predicted)
    return {
        "images": len(labels),
        "accuracy": number(sk.accuracy_score(labels, predicted)),
        "accuracy_low": low,
        "accuracy_high": high,
        "balanced_accuracy": number(columns[1][np.unique(labels)].mean()),
        "top_k": _top_k(labels, probabilities),
        **_ranking(labels, probabilities),
        "log_loss": number(sk.log_loss(labels, probabilities, labels=indices)),
        "brier": _brier(labels, probabilities),
        "ece": number(calibration_error(labels, probabilities)),
        "macro": {name: number(values[concerned].mean()) for name, values in zip(_SHARES, columns, strict=False)},
        "classes": [
            _class(name, i in concerned, *row) for i, name, *row in zip(indices, class_names, *columns, strict=True)
        ],
        "confusion": sk.confusion_matrix(labels, predicted, labels=indices).tolist(),
    }


def baseline(labels: np.ndarray, train_counts: np.ndarray, class_names: tuple[str, ...]) -> dict[str, Any]:
    """The numbers of always answering the training split's largest class, with the classes' shares as probabilities.

    Like a model, the baseline must not know the test split, so its class and shares come from the training split.
    """
    shares = (train_counts + 1) / (train_counts.sum() + len(train_counts))
    constant = classification(labels, np.tile(shares, (len(labels), 1)), class_names)
    return {"class": class_names[int(shares.argmax())], **constant}


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a fraction (Wilson, 1927); valid at 0 and 1 and for few trials."""
    interval = binomtest(successes, trials).proportion_ci(CONFIDENCE_LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(first_correct: np.ndarray, second_correct: np.ndarray) -> dict[str, float | int]:
    """McNemar's exact test of two classifiers on the same images (McNemar, Psychometrika 1947).

    Returns:
        `only_first` and `only_second`: how many images only one of them classified correctly; `p_value`:
        probability of a difference at least as large if both were equally good; 1 if they never disagree.
    """
    only_first = int((first_correct & ~second_correct).sum())
    only_second = int((~first_correct & second_correct).sum())
    differing = only_first + only_second
    p_value = float(binomtest(only_first, differing).pvalue) if differing else 1.0
    return {"only_first": only_first, "only_second": only_second, "p_value": p_value}


def number(value: float) -> float | None:
    """A Python float for JSON; None for NaN and infinity, which JSON lacks."""
    return float(value) if math.isfinite(value) else None


def _normalized(probabilities: np.ndarray) -> np.ndarray:
    """float64 rows that sum to 1; scikit-learn warns about float32 rows, which do so only within 1e-6."""
    probabilities = np.asarray(probabilities, np.float64)
    return probabilities / probabilities.sum(axis=1, keepdims=True)


def _ranking(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float | None]:
    if probabilities.shape[1] != 2 or len(np.unique(labels)) != 2:
        return {"roc_auc": None, "average_precision": None}
    return {
        "roc_auc": number(sk.roc_auc_score(labels, probabilities[:, 1])),
        "average_precision": number(sk.average_precision_score(labels, probabilities[:, 1])),
    }


def _top_k(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float | int | None] | None:
    classes = probabilities.shape[1]
    k = next((k for least, k in _TOP_K_FROM_CLASSES.items() if classes >= least), None)
    if k is None:
        return None
    accuracy = sk.top_k_accuracy_score(labels, probabilities, k=k, labels=np.arange(classes))
    return {"k": k, "accuracy": number(accuracy)}


def _brier(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Mean squared error of the probability of class 1 for two classes, summed over the classes for more."""
    classes = probabilities.shape[1]
    return number(sk.brier_score_loss(labels, probabilities, labels=np.arange(classes)))


def _class(name: str, is_concerned: bool, *values: float) -> dict[str, Any]:
    *shares, support = values
    known = {share: number(value) if is_concerned else None for share, value in zip(_SHARES, shares, strict=True)}
    return {"name": name, **known, "support": int(support)}


@dataclass(frozen=True)
class Bin:
    """The images whose confidence lies in one interval: their number, mean confidence and accuracy."""

    images: int
    confidence: float
    accuracy: float


def bins(labels: np.ndarray, probabilities: np.ndarray) -> list[Bin]:
    """The bins that hold images, by the probability of the predicted class."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    numbers = np.minimum((confidence * BINS).astype(int), BINS - 1)
    members = (numbers == number for number in range(BINS))
    return [
        Bin(int(inside.sum()), float(confidence[inside].mean()), float(correct[inside].mean()))
        for inside in members
        if inside.any()
    ]


def calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The expected calibration error in 0-1: the bins' mean gap between confidence and accuracy.

    Guo et al., On Calibration of Modern Neural Networks, 2017 (arXiv:1706.04599), equation 3.
    """
    gaps = [bin.images * abs(bin.accuracy - bin.confidence) for bin in bins(labels, probabilities)]
    return sum(gaps) / len(labels)


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """The temperature that minimizes the log loss (Guo et al., section 4.2), to be fitted on the validation split.

    Returns:
        Above 1 for an overconfident model; None if the images don't determine it, because there are none or all are
        classified correctly, so that no confidence would be too high.
    """
    if not len(labels) or (probabilities.argmax(axis=1) == labels).all():
        return None
    logs = _logs(probabilities)
    rows = np.arange(len(labels))

    def log_loss(log_temperature: float) -> float:
        return -float(log_softmax(logs / np.exp(log_temperature), axis=1)[rows, labels].mean())

    found = minimize_scalar(log_loss, bounds=np.log(_TEMPERATURES), method="bounded")
    return float(np.exp(found.x))


def rescale(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax of the logits divided by `temperature`. The predicted class stays the same."""
    return np.exp(log_softmax(_logs(probabilities) / temperature, axis=1))


def _logs(probabilities: np.ndarray) -> np.ndarray:
    """Logits up to a constant for each row, which softmax ignores."""
    return np.log(np.maximum(probabilities, _SMALLEST_PROBABILITY))
