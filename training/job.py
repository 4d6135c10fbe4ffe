"""What stays the same over all phases of a training, and what each of them is fitted on."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import keras

import models
from data.batches import Batches
from data.cache import keep_decoded
from models.layers import frozen
from training import features, transfer
from training.agreement import Agreement
from training.config import TrainConfig
from training.distribution import Distribution
from training.examples import Examples
from training.heads import Objective
from training.interruption import Pause, Signals
from training.transfer import Phase


@dataclass(frozen=True)
class Job:
    """One training."""

    config: TrainConfig
    run_dir: str
    examples: Examples
    objective: Objective
    model: keras.Model
    team: Distribution
    signals: Signals

    @property
    def checkpoint_seconds(self) -> float:
        """How much time a kill may cost."""
        return 60 * self.config.checkpoint_minutes

    def batches(self, split: str) -> tuple[Batches, list[str]]:
        """The images of one split, to be decoded, and their digests."""
        dataset, digests = self.examples.split(split)
        config = self.config
        batches = Batches(
            dataset,
            batch_size=config.batch_size,
            seed=config.seed,
            image_size=config.image_size or 0,
            channels=models.find(config.model).channels,
            augment=config.augment,
            targets=self.objective.targets,
            service=config.data_service,
        )
        return batches, digests

    @functools.cached_property
    def decoded(self) -> tuple[Batches, Batches]:
        """The images to train and to validate on, decoded once for all phases."""
        # Every worker decodes for itself, or finds what it needs; there is nothing to agree on.
        how = (self.config.cache, Pause(self.signals, self.checkpoint_seconds), self.checkpoint_seconds)
        train, val = (keep_decoded(*self.batches(split), *how) for split in ("train", "val"))
        return train, val

    def trainee_and_batches(self, phase: Phase) -> tuple[keras.Model, Batches, Batches]:
        """The model to fit and what to fit and validate it on.

        That is pixels, or features where a frozen backbone always gives the same.
        """
        if not phase.is_frozen or (self.config.augment != "none" and not self.config.augmented_views):
            return (self._frozen if phase.is_frozen else self.model), *self.decoded
        train = self._features("train", "features for training", views=transfer.views(self.config))
        return self._halves[1], train, self._features("val", "features for validation")

    @functools.cached_property
    def _frozen(self) -> keras.Model:
        return frozen(self.model)

    @functools.cached_property
    def _halves(self) -> tuple[features.Front, keras.Model]:
        return features.cut(self.model)

    def _features(self, split: str, title: str, **how: Any) -> Batches:
        return features.compute(
            self._halves[0],
            *self.batches(split),
            objective=self.objective,
            title=title,
            team=self.team,
            check=Pause(self.signals, self.checkpoint_seconds, Agreement(self.team, self.checkpoint_seconds)),
            seconds=self.checkpoint_seconds,
            **how,
        )

    def test(self, model: keras.Model) -> dict[str, float]:
        """Loss and metrics of the trained `model` on the test split, by features where its backbone stayed frozen.

        Then its backbone is that of the job's own model.
        """
        if transfer.phases(self.config)[-1].is_frozen:
            _, model = features.cut(model)
            batches = self._features("test", "features for testing")
        else:
            batches = dataclasses.replace(self.batches("test")[0], service=None)
        self.team.compile(model, self.objective.compile_arguments)
        metrics = model.evaluate(
            self.team.evaluation(batches), steps=batches.steps_per_epoch, return_dict=True, verbose=0
        )
        return {name: float(value) for name, value in metrics.items()}
