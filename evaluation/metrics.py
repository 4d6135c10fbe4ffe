"""Exact metrics of a whole split at once, from labels and probabilities. scikit-learn computes them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.stats import binomtest
from sklearn import metrics as sk

from evaluation import calibration

CONFIDENCE_LEVEL = 0.95
_SHARES = ("precision", "recall", "f1")

# A chart of the best three of four classes would say little; these are where people begin to ask for it.
_TOP_K_FROM_CLASSES = {20: 5, 6: 3}


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
        "ece": number(calibration.expected_error(labels, probabilities)),
        "macro": {name: number(values[concerned].mean()) for name, values in zip(_SHARES, columns, strict=False)},
        "classes": [
            _class(name, i in concerned, *row) for i, name, *row in zip(indices, class_names, *columns, strict=True)
        ],
        "confusion": sk.confusion_matrix(labels, predicted, labels=indices).tolist(),
    }


def baseline(labels: np.ndarray, train_counts: np.ndarray, class_names: tuple[str, ...]) -> dict[str, Any]:
    """The numbers of always answering the training split's largest class, with the classes' shares as probabilities.

    The class is chosen from the training split, as a model must; the largest class of the test split would be a peek.
    """
    shares = (train_counts + 1) / (train_counts.sum() + len(train_counts))
    constant = classification(labels, np.tile(shares, (len(labels), 1)), class_names)
    return {"class": class_names[int(shares.argmax())], **constant}


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a fraction (Wilson, 1927); honest at 0 and 1 and for few trials."""
    interval = binomtest(successes, trials).proportion_ci(CONFIDENCE_LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(first_correct: np.ndarray, second_correct: np.ndarray) -> dict[str, float | int]:
    """McNemar's exact test of two classifiers on the same images (McNemar, Psychometrika 1947).

    Returns:
        `only_first` and `only_second`: how many images just one of them got right; `p_value`: how likely a
        difference at least as large would be if both were equally good. 1 where they never disagree.
    """
    only_first = int((first_correct & ~second_correct).sum())
    only_second = int((~first_correct & second_correct).sum())
    differing = only_first + only_second
    p_value = float(binomtest(only_first, differing).pvalue) if differing else 1.0
    return {"only_first": only_first, "only_second": only_second, "p_value": p_value}


def number(value: float) -> float | None:
    """A plain float for JSON, which has no NaN."""
    return float(value) if math.isfinite(value) else None


def _normalized(probabilities: np.ndarray) -> np.ndarray:
    """float32 rows sum to 1 within 1e-6, which scikit-learn warns about."""
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
