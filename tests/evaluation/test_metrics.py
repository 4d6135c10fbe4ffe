from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import precision_recall_fscore_support

from evaluation import metrics

NAMES = ("cat", "dog")


def two_columns(scores: list[float]) -> np.ndarray:
    return np.stack([1 - np.asarray(scores), scores], axis=1)


def test_numbers_of_five_images_worked_out_by_hand() -> None:
    labels = np.array([0, 0, 1, 1, 1])
    found = metrics.classification(labels, two_columns([0.1, 0.6, 0.8, 0.3, 0.9]), NAMES)
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["balanced_accuracy"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found["confusion"] == [[1, 1], [1, 2]]
    cat, dog = found["classes"]
    assert cat == {"name": "cat", "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    assert dog["precision"] == dog["recall"] == dog["f1"] == pytest.approx(2 / 3)
    # Of the 6 pairs of a dog and a cat, the dog has the higher score in 5.
    assert found["roc_auc"] == pytest.approx(5 / 6)
    assert found["log_loss"] == pytest.approx(-sum(map(math.log, (0.9, 0.4, 0.8, 0.3, 0.9))) / 5)
    assert found["brier"] == pytest.approx((0.1**2 + 0.6**2 + 0.2**2 + 0.7**2 + 0.1**2) / 5)
    assert found["macro"]["f1"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found["top_k"] is None


def test_wilson_interval_of_a_published_example() -> None:
    # Newcombe, 1998, Statistics in Medicine 17, table I, method 3: 81 of 263, and 0 of 20.
    assert metrics.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert metrics.wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)


def test_the_baseline_is_the_largest_class_of_training_even_where_the_test_split_has_another() -> None:
    labels = np.array([0, 1, 1, 1])
    found = metrics.baseline(labels, np.array([30, 10]), NAMES)
    assert (found["class"], found["accuracy"], found["balanced_accuracy"]) == ("cat", 0.25, 0.5)
    # Laplace's shares, 31 and 11 of 42, so that an unseen class costs much but not everything.
    assert found["log_loss"] == pytest.approx(-(math.log(31 / 42) + 3 * math.log(11 / 42)) / 4)


def test_a_missing_class_gives_none_and_no_warning() -> None:
    found = metrics.classification(np.array([0, 0]), two_columns([0.2, 0.1]), NAMES)
    assert (found["roc_auc"], found["average_precision"]) == (None, None)
    assert found["classes"][1] == {"name": "dog", "precision": None, "recall": None, "f1": None, "support": 0}
    assert (found["accuracy"], found["balanced_accuracy"]) == (1, 1)


def test_a_class_that_is_never_predicted_counts_with_precision_0() -> None:
    """90 cats and 10 dogs, all called cat; scikit-learn's macro precision is 0.45, and its F1 0.474."""
    labels = np.repeat([0, 1], [90, 10])
    found = metrics.classification(labels, two_columns([0.1] * 100), NAMES)
    assert found["macro"] == pytest.approx({"precision": 0.45, "recall": 0.5, "f1": 0.5 * 180 / 190})
    assert found["classes"][1] == {"name": "dog", "precision": 0, "recall": 0, "f1": 0, "support": 10}


@settings(deadline=None, max_examples=100)
@given(classes=st.integers(2, 8), images=st.integers(1, 30), seed=st.integers(0, 999))
def test_the_means_of_classes_are_those_of_scikit_learn(classes: int, images: int, seed: int) -> None:
    """With few images, most draws lack a class among the labels, the predictions, or both."""
    generator = np.random.default_rng(seed)
    labels, predicted = generator.integers(0, classes, (2, images))
    probabilities = np.eye(classes)[predicted] * 0.9 + 0.1 / classes
    found = metrics.classification(labels, probabilities, tuple(map(str, range(classes))))
    *wanted, _ = precision_recall_fscore_support(labels, predicted, average="macro", zero_division=0)
    assert list(found["macro"].values()) == pytest.approx(wanted)
    for name, mean in found["macro"].items():
        shown = [row[name] for row in found["classes"] if row[name] is not None]
        assert np.mean(shown) == pytest.approx(mean), "the mean is that of the column above it"
    recalls = [row["recall"] for row in found["classes"] if row["support"]]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))


def test_top_k_comes_with_many_classes() -> None:
    probabilities = np.full((2, 25), 0.01)
    probabilities[:, :6] = (0.3, 0.2, 0.1, 0.09, 0.08, 0.05)
    names = tuple(f"class {i}" for i in range(25))
    found = metrics.classification(np.array([4, 5]), probabilities, names)
    assert found["top_k"] == {"k": 5, "accuracy": 0.5}
    assert found["accuracy"] == 0


@settings(deadline=None, max_examples=60)
@given(classes=st.integers(2, 8), images=st.integers(1, 12), seed=st.integers(0, 999), sharpness=st.floats(0.01, 50))
def test_any_split_gives_valid_json_and_agrees_with_its_confusion_matrix(
    classes: int, images: int, seed: int, sharpness: float
) -> None:
    generator = np.random.default_rng(seed)
    logits = sharpness * generator.normal(size=(images, classes))
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True)).astype(np.float32)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    labels = generator.integers(0, classes, images)
    found = metrics.classification(labels, probabilities, tuple(map(str, range(classes))))
    json.dumps(found, allow_nan=False)
    confusion = np.asarray(found["confusion"])
    assert confusion.sum() == images
    assert found["accuracy"] == pytest.approx(np.trace(confusion) / images)
    assert found["accuracy_low"] <= found["accuracy"] <= found["accuracy_high"]


def test_mcnemar_counts_only_images_on_which_the_runs_differ() -> None:
    first = np.array([True] * 10 + [False] * 2 + [True] * 100)
    second = np.array([False] * 10 + [True] * 2 + [True] * 100)
    found = metrics.mcnemar(first, second)
    # Twice the probability of at most 2 heads in 12 throws: 2 * (1 + 12 + 66) / 4096.
    assert found == {"only_first": 10, "only_second": 2, "p_value": pytest.approx(158 / 4096)}
    assert metrics.mcnemar(first, first) == {"only_first": 0, "only_second": 0, "p_value": 1.0}


def test_calibration_error_of_two_bins_worked_out_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    labels = np.array([0, 0, 1, 1])
    assert metrics.calibration_error(labels, probabilities) == pytest.approx(0.75 * (0.9 - 2 / 3) + 0.25 * 0.4)
    assert [bin.images for bin in metrics.bins(labels, probabilities)] == [1, 3]


def test_full_confidence_falls_into_the_last_bin() -> None:
    assert metrics.bins(np.array([0]), np.array([[1.0, 0.0]])) == [metrics.Bin(1, 1.0, 1.0)]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("classes", [2, 7])
def test_the_temperature_that_scaled_the_logits_is_found_again(temperature: float, classes: int) -> None:
    generator = np.random.default_rng(0)
    logits = 2 * generator.normal(size=(20_000, classes))
    honest = softmax(logits, axis=1)
    labels = (honest.cumsum(axis=1) > generator.random((len(honest), 1))).argmax(axis=1)
    scaled = softmax(temperature * logits, axis=1)
    assert metrics.fit_temperature(labels, scaled) == pytest.approx(temperature, rel=0.04)
    restored = metrics.rescale(scaled, temperature)
    np.testing.assert_allclose(restored, honest, atol=1e-6)
    np.testing.assert_array_equal(restored.argmax(axis=1), scaled.argmax(axis=1))


def test_images_that_do_not_determine_a_temperature() -> None:
    assert metrics.fit_temperature(np.array([], np.int64), np.empty((0, 2))) is None
    assert metrics.fit_temperature(np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]])) is None


def test_probabilities_of_zero_stay_finite() -> None:
    certain = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert np.isfinite(metrics.rescale(certain, 2.0)).all()
    assert metrics.fit_temperature(np.array([1, 1]), certain) == pytest.approx(20, rel=0.01)
