from __future__ import annotations

import keras
import numpy as np
import pytest

import models
from training import phases
from training.config import TrainConfig
from training.heads import Objective, make
from training.resolve import resolved


def names(**given: object) -> list[tuple[str, int, int, float]]:
    config = resolved(TrainConfig(**given))  # type: ignore[arg-type]
    return [(p.name, p.first_epoch, p.last_epoch, p.learning_rate) for p in phases.phases(config)]


def test_the_phases_follow_the_flags() -> None:
    assert names(model="lenet5") == [("all", 0, 10, 1e-4)]
    assert names(model="resnet50") == [("all", 0, 10, 1e-5)]
    assert names(model="resnet50", freeze=True) == [("head", 0, 10, 1e-3)]
    two = names(model="resnet50", freeze=True, epochs=3, fine_tune_epochs=2)
    assert two == [("head", 0, 3, 1e-3), ("fine_tune", 3, 5, 1e-5)]


@pytest.mark.parametrize("phase", phases.phases(resolved(TrainConfig(freeze=True, fine_tune_epochs=1))))
def test_what_changes_in_each_phase(phase: phases.Phase) -> None:
    """Frozen: nothing of the backbone, bit for bit. Fine-tuning: every weight, but no BatchNorm statistic."""
    keras.utils.set_random_seed(0)
    model = models.build("resnet18", 2, image_size=32, transfer=True)
    phases.set_trainable(model, phase)
    model.compile(
        optimizer=keras.optimizers.Adam(1e-2), **Objective(make(("class",), ("a", "b"), {})).compile_arguments()
    )
    backbone = model.get_layer("backbone")
    before = {variable.path: variable.numpy() for variable in backbone.variables}
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype(np.float32)
    model.fit(pixels, np.tile([[0.0], [1.0]], (4, 1)), epochs=1, batch_size=8, verbose=0)
    changed = {v.path for v in backbone.variables if not np.array_equal(v.numpy(), before[v.path])}
    if phase.is_frozen:
        assert changed == set()
    else:
        statistics = {path for path in before if "moving" in path}
        assert len(statistics) == 40
        assert changed & statistics == set()
        assert len(changed) >= 0.95 * (len(before) - len(statistics))


def test_the_learning_rate_is_constant_or_falls_to_nothing() -> None:
    phase = phases.Phase("all", 0, 4, 1e-2)
    assert float(phases.optimizer(phase, 10).learning_rate) == pytest.approx(1e-2)
    assert phases.learning_rate_at(phase, 10, 39) == 1e-2
    phase = phases.Phase("all", 0, 4, 1e-2, "cosine")
    optimizer = phases.optimizer(phase, 10)
    rates = []
    for step in (0, 20, 40):
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    assert rates == pytest.approx([1e-2, 5e-3, 0.0], abs=1e-8)
    assert [phases.learning_rate_at(phase, 10, step) for step in (0, 20, 40)] == pytest.approx(rates, abs=1e-8)
