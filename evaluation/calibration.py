"""Whether a probability means what it says, and the one number that mends it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

# 15 equal bins, as in Guo et al.
BINS = 15

# exp(-34) is what float64 can still hold beside 1.
_SMALLEST_PROBABILITY = 1e-15
_TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True)
class Bin:
    """The images whose confidence lies in one interval: how many, how sure on average, and how often right."""

    images: int
    confidence: float
    accuracy: float


def bins(labels: np.ndarray, probabilities: np.ndarray) -> list[Bin]:
    """The bins that hold images, by the probability of the predicted class."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    members = (places == place for place in range(BINS))
    return [
        Bin(int(inside.sum()), float(confidence[inside].mean()), float(correct[inside].mean()))
        for inside in members
        if inside.any()
    ]


def expected_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The expected calibration error in 0-1: the bins' mean gap between confidence and accuracy.

    Guo et al., On Calibration of Modern Neural Networks, 2017 (arXiv:1706.04599), equation 3.
    """
    gaps = [bin.images * abs(bin.accuracy - bin.confidence) for bin in bins(labels, probabilities)]
    return sum(gaps) / len(labels)


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """The temperature that minimises the log loss (Guo et al., section 4.2); fit it on other images than you judge.

    Returns:
        Above 1 where the model is too sure of itself, or None where the images don't determine it: there are none,
        or all are answered rightly, so that no confidence would be too high.
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
    """Logits up to a constant for each row, which is all that a softmax sees."""
    return np.log(np.maximum(probabilities, _SMALLEST_PROBABILITY))
