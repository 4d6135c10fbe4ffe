"""What a reader must know before believing a number."""

from __future__ import annotations

from typing import Any

import errors

# Half the width of the 95 % interval that a claim about accuracy should have at most, as a fraction.
LARGEST_DOUBT = 0.025
_FEWEST_OF_A_CLASS = 20
_LISTED = 5


def of_metrics(model: dict[str, Any], baseline: dict[str, Any]) -> list[str]:
    """Sentences about a test split that is too small for the claim; both arguments from `metrics.classification`."""
    return [
        *_on_size(model),
        *_on_baseline(model, baseline),
        *_on_classes([(row["name"], row["support"]) for row in model["classes"]]),
    ]


def of_duplicates(pairs: int, tested: int, trained: int, all_trained: int) -> list[str]:
    """A sentence when images of the test split stand in training too."""
    if not pairs:
        return []
    checked = "" if trained == all_trained else f" (compared with {trained:,} of the {all_trained:,} training images)"
    return [
        f"{pairs:,} of {tested:,} test images {'is' if pairs == 1 else 'are'} identical or nearly identical to a "
        f"training image{checked}. The model may know them by heart: see the pairs below, and remove the copies."
    ]


def of_missing(what: str, split: str, left: int, missing: int) -> list[str]:
    """A sentence when some or all of the run's images are not at hand, for `what` needs them."""
    if not missing:
        return []
    if not left:
        return [f"{what} was left out: the run's {missing:,} {split} images are not at hand."]
    return [f"{what} used the {left:,} {split} images that are left; {missing:,} are missing."]


def images_for(accuracy: float, doubt: float) -> int:
    """How many images narrow the 95 % interval of this accuracy to ± `doubt` (normal approximation)."""
    # Nobody's true accuracy is known to be 1, and its variance of 0 would ask for no images at all.
    spread = max(accuracy * (1 - accuracy), 0.01)
    return round(1.96**2 * spread / doubt**2)


def _on_size(model: dict[str, Any]) -> list[str]:
    low, high = model["accuracy_low"], model["accuracy_high"]
    if (high - low) / 2 <= LARGEST_DOUBT:
        return []
    wanted = max(images_for(model["accuracy"], LARGEST_DOUBT), model["images"] + 1)
    images = errors.counted(model["images"], "image")
    return [
        f"The test split is small: from {images} the accuracy is only known to lie between {100 * low:.1f} and "
        f"{100 * high:.1f} %. About {wanted:,} images would give ±{100 * LARGEST_DOUBT:g} points."
    ]


def _on_baseline(model: dict[str, Any], baseline: dict[str, Any]) -> list[str]:
    if model["accuracy_low"] > baseline["accuracy"]:
        return []
    return [
        f"The model is not shown to be better than always answering “{baseline['class']}”, which is right "
        f"for {100 * baseline['accuracy']:.1f} % of these images."
    ]


def _on_classes(supports: list[tuple[str, int]]) -> list[str]:
    few = [(name, support) for name, support in supports if support < _FEWEST_OF_A_CLASS]
    if not few:
        return []
    named = ", ".join(f"{name} ({support})" for name, support in few[:_LISTED])
    more = f" and {len(few) - _LISTED} more classes" if len(few) > _LISTED else ""
    return [
        f"Fewer than {_FEWEST_OF_A_CLASS} test images of {named}{more}: what is said of "
        f"{'this class' if len(few) == 1 else 'these classes'} alone is hardly more than an anecdote."
    ]
