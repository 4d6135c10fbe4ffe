"""The phases of a training: a new head on a frozen backbone, then everything at a small step size, or all at once."""

from __future__ import annotations

from dataclasses import dataclass

import keras

from data.pipeline import AS_IT_IS, View
from models.layers import freeze_backbone, unfreeze_backbone
from training.config import TrainConfig


@dataclass(frozen=True)
class Phase:
    """One `fit`.

    Attributes:
        name: `head` (backbone frozen), `fine_tune` (everything, after `head`), or `all` (everything from the start).
        first_epoch: index of its first epoch, counted over all phases.
        last_epoch: index of the epoch to stop before.
        learning_rate: step size of Adam.
    """

    name: str
    first_epoch: int
    last_epoch: int
    learning_rate: float

    @property
    def is_frozen(self) -> bool:
        """Whether the backbone keeps its weights and statistics."""
        return self.name == "head"


def phases(config: TrainConfig) -> list[Phase]:
    """The phases that the flags ask for, in order."""
    name = "head" if config.freeze else "all"
    first = Phase(name, 0, config.epochs, config.learning_rate or 0.0)
    if not config.fine_tune_epochs:
        return [first]
    last_epoch = config.epochs + config.fine_tune_epochs
    return [first, Phase("fine_tune", config.epochs, last_epoch, config.fine_tune_learning_rate)]


def views(config: TrainConfig) -> tuple[View, ...]:
    """The looks at each training picture whose features a frozen backbone computes once: as it is, or random ones."""
    numbers = range(config.augmented_views)
    return tuple(View(config.augment, config.seed, number) for number in numbers) or (AS_IT_IS,)


def optimizer(phase: Phase, schedule: str, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Adam (Kingma and Ba, arXiv:1412.6980) for one phase.

    Args:
        phase: gives the step size and the number of epochs.
        schedule: `constant`, or `cosine` to let the step size fall to 0 along half a cosine over the phase
            (Loshchilov and Hutter, arXiv:1608.03983, without restarts).
        steps_per_epoch: of the training part.
    """
    if schedule == "constant":
        return keras.optimizers.Adam(phase.learning_rate)
    steps = (phase.last_epoch - phase.first_epoch) * steps_per_epoch
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(phase.learning_rate, steps))


def enter(model: keras.Model, phase: Phase) -> None:
    """Freezes or unfreezes the backbone. Compile afterwards: Keras ignores a change of `trainable` until then."""
    if phase.is_frozen:
        freeze_backbone(model)
    else:
        unfreeze_backbone(model)
