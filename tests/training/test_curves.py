from __future__ import annotations

import pytest

from training.curves import draw_curves

HISTORY = [
    {"epoch": epoch, "phase": "head", "loss": 1.0 / epoch, "val_loss": loss, "accuracy": 0.5, "val_accuracy": 0.4}
    for epoch, loss in ((1, 0.9), (2, 0.3), (3, 0.5))
]


def test_a_ring_marks_the_kept_epoch_in_every_panel() -> None:
    for axes, value in zip(draw_curves(HISTORY, kept=2).axes, (0.3, 0.4), strict=True):
        (ring,) = [line for line in axes.lines if line.get_label() == "kept: epoch 2"]
        assert [float(ring.get_xdata()[0]), float(ring.get_ydata()[0])] == [2.0, value]  # type: ignore[index]


@pytest.mark.parametrize("kept", [None, 7])
def test_nothing_is_marked_where_nothing_is_kept(kept: int | None) -> None:
    for axes in draw_curves(HISTORY, kept).axes:
        assert [line.get_label() for line in axes.lines] == ["training", "validation"]
