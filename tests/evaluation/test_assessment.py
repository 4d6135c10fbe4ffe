from __future__ import annotations

import numpy as np

from evaluation import assessment, metrics

NAMES = ("cat", "dog")


def said(right: int, wrong: int, *, train: tuple[int, int] = (50, 50)) -> list[str]:
    """Warnings about as many cats and dogs, of which so many are classified correctly."""
    labels = np.tile([0, 1], (right + wrong + 1) // 2)[: right + wrong]
    answers = np.where(np.arange(right + wrong) < right, labels, 1 - labels)
    probabilities = np.eye(2)[answers] * 0.8 + 0.1
    model = metrics.classification(labels, probabilities, NAMES)
    return assessment.warnings_about(model, metrics.baseline(labels, np.array(train), NAMES))


def test_a_large_test_split_and_a_good_model_need_no_warning() -> None:
    assert said(970, 30) == []


def test_a_small_test_split_is_named_with_the_size_that_would_do() -> None:
    (warning,) = said(96, 4)
    assert "from 100 images" in warning and "90.2 and 98.4 %" in warning
    # 1.96² · 0.96 · 0.04 / 0.025²
    assert "About 236 images" in warning


def test_a_model_no_better_than_the_largest_class_is_called_so() -> None:
    assert any("always answering “dog”" in warning for warning in said(1000, 950, train=(1, 9)))


def test_classes_with_few_images_are_named() -> None:
    assert any("cat (5), dog (5)" in warning for warning in said(10, 0))


def test_copies_are_counted_against_what_was_compared() -> None:
    assert assessment.copies_warning(0, 100, 50, 50) == []
    (one,) = assessment.copies_warning(1, 100, 50, 50)
    assert one.startswith("1 of 100 test images is identical or nearly")
    (some,) = assessment.copies_warning(3, 100, 50, 80)
    assert "(compared with 50 of the 80 training images)" in some


def test_no_accuracy_is_so_high_that_no_image_is_needed() -> None:
    assert assessment.images_for(1.0, 0.01) == 384
