from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from evaluation import calibration


def test_expected_error_of_two_bins_worked_out_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    labels = np.array([0, 0, 1, 1])
    assert calibration.expected_error(labels, probabilities) == pytest.approx(0.75 * (0.9 - 2 / 3) + 0.25 * 0.4)
    assert [bin.images for bin in calibration.bins(labels, probabilities)] == [1, 3]


def test_full_confidence_falls_into_the_last_bin() -> None:
    assert calibration.bins(np.array([0]), np.array([[1.0, 0.0]])) == [calibration.Bin(1, 1.0, 1.0)]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("classes", [2, 7])
def test_the_temperature_that_spoilt_the_logits_is_found_again(temperature: float, classes: int) -> None:
    generator = np.random.default_rng(0)
    logits = 2 * generator.normal(size=(20_000, classes))
    honest = softmax(logits, axis=1)
    labels = (honest.cumsum(axis=1) > generator.random((len(honest), 1))).argmax(axis=1)
    spoilt = softmax(temperature * logits, axis=1)
    assert calibration.fit_temperature(labels, spoilt) == pytest.approx(temperature, rel=0.04)
    mended = calibration.rescale(spoilt, temperature)
    np.testing.assert_allclose(mended, honest, atol=1e-6)
    np.testing.assert_array_equal(mended.argmax(axis=1), spoilt.argmax(axis=1))


def test_images_that_do_not_determine_a_temperature() -> None:
    assert calibration.fit_temperature(np.array([], np.int64), np.empty((0, 2))) is None
    assert calibration.fit_temperature(np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]])) is None


def test_probabilities_of_zero_stay_finite() -> None:
    certain = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert np.isfinite(calibration.rescale(certain, 2.0)).all()
    assert calibration.fit_temperature(np.array([1, 1]), certain) == pytest.approx(20, rel=0.01)
