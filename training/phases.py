"""The phases of a training: the head on a frozen backbone, then everything at a low learning rate, or all at once."""

from __future__ import annotations

from dataclasses import dataclass

import keras

import errors
from models.layers import freeze_backbone, unfreeze_backbone
from training.config import TrainConfig


@dataclass(frozen=True)
class Phase:
    """One phase of a training.

    Attributes:
        name: `head` (backbone frozen), `fine_tune` (everything, after `head`), or `all` (everything from the start).
        first_epoch: index of its first epoch, counted over all phases.
        last_epoch: index of the epoch to stop before.
        learning_rate: of Adam, at the first step.
        schedule: `constant`, or `cosine` to let the learning rate fall to 0 along half a cosine over all epochs of the
            phase (Loshchilov and Hutter, arXiv:1608.03983, without restarts).
    """

    name: str
    first_epoch: int
    last_epoch: int
    learning_rate: float
    schedule: str = "constant"

    @property
    def is_frozen(self) -> bool:
        """Whether the backbone keeps its weights and statistics."""
        return self.name == "head"

    def described(self, num_images: int) -> str:
        """What the phase trains, for which epochs, on how many images, and at which learning rate."""
        what = {"head": "the head on a frozen backbone", "fine_tune": "everything, fine-tuned", "all": "everything"}
        falling = ", falling to 0 along half a cosine" if self.schedule == "cosine" else ""
        return (
            f"{what[self.name]}: epochs {self.first_epoch + 1} to {self.last_epoch}, "
            f"{errors.counted(num_images, 'image')}, learning rate {self.learning_rate:g}{falling}"
        )


def phases(config: TrainConfig) -> list[Phase]:
    """The phases of a training, in order."""
    name = "head" if config.freeze else "all"
    schedule = config.learning_rate_schedule
    first = Phase(name, 0, config.epochs, config.learning_rate or 0.0, schedule)
    if not config.fine_tune_epochs:
        return [first]
    last_epoch = config.epochs + config.fine_tune_epochs
    return [first, Phase("fine_tune", config.epochs, last_epoch, config.fine_tune_learning_rate, schedule)]


def set_trainable(model: keras.Model, phase: Phase) -> None:
    """Freezes or unfreezes the backbone. Compile afterwards: Keras ignores a change of `trainable` until then."""
    if phase.is_frozen:
        freeze_backbone(model)
    else:
        unfreeze_backbone(model)


def optimizer(phase: Phase, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Adam (Kingma and Ba, arXiv:1412.6980) for one phase, whose epochs have `steps_per_epoch` steps."""
    return keras.optimizers.Adam(_learning_rate(phase, steps_per_epoch))


def learning_rate_at(phase: Phase, steps_per_epoch: int, step: int) -> float:
    """The learning rate of one step, counted from 0 at the start of the phase."""
    rate = _learning_rate(phase, steps_per_epoch)
    return rate if isinstance(rate, float) else float(f"{float(rate(step)):.6g}")


def _learning_rate(phase: Phase, steps_per_epoch: int) -> float | keras.optimizers.schedules.LearningRateSchedule:
    if phase.schedule == "constant":
        return phase.learning_rate
    steps = (phase.last_epoch - phase.first_epoch) * steps_per_epoch
    return keras.optimizers.schedules.CosineDecay(phase.learning_rate, steps)
