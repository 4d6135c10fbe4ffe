"""What all phases of a training share, and the batches that each phase is fitted on."""

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
from training import features
from training.config import TrainConfig
from training.distributed.strategy import Distribution
from training.examples import Examples
from training.heads import Objective
from training.phases import Phase
from training.run import Run
from training.signals import SafePoints, Signals


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        config: the flags.
        run: the run folder.
        examples: the images and their splits.
        objective: makes the targets.
        model: the whole network.
        distribution: the devices that train together.
        signals: requests to stop.
    """

    config: TrainConfig
    run: Run
    examples: Examples
    objective: Objective
    model: keras.Model
    distribution: Distribution
    signals: Signals

    def inputs(self, phase: Phase) -> tuple[keras.Model, Batches, Batches]:
        """The model to fit in `phase`, and the batches to train and to validate it on.

        The batches hold images, or features where a frozen backbone computes the same ones in every epoch.
        """
        if not phase.is_frozen:
            return self.model, *self._decoded
        if self.config.augment != "none" and not self.config.augmented_views:
            return frozen(self.model), *self._decoded
        views = tuple(range(self.config.augmented_views)) or (None,)
        front, rest = self._halves
        train = self._features(front, "train", "features for training", views=views)
        return rest, train, self._features(front, "val", "features for validation")

    def test_inputs(self, model: keras.Model, phase: Phase) -> tuple[keras.Model, Batches]:
        """The model to evaluate and the batches of the test split; `phase` was the last phase of `model`."""
        if not phase.is_frozen:
            return model, dataclasses.replace(self._images("test"), service=None)
        # The backbone hasn't changed, so the network in memory computes the same features as `model`.
        return features.cut(model)[1], self._features(self._halves[0], "test", "features for testing")

    def _images(self, split: str) -> Batches:
        """The images of one split, to be decoded."""
        return Batches(
            self.examples.split(split),
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            image_size=self.config.image_size or 0,
            channels=models.find(self.config.model).channels,
            augment=self.config.augment,
            targets=self.objective.targets,
            service=self.config.data_service,
        )

    @functools.cached_property
    def _decoded(self) -> tuple[Batches, Batches]:
        """The images to train and to validate on, decoded once for all phases."""
        # Each worker decodes on its own or reads its cache, so the workers need not agree.
        keep = functools.partial(
            keep_decoded,
            mode=self.config.cache,
            check=SafePoints(self.signals).check,
            seconds=self._checkpoint_seconds,
        )
        train, val = keep(self._images("train")), keep(self._images("val"))
        return train, val

    @functools.cached_property
    def _halves(self) -> tuple[features.Front, keras.Model]:
        return features.cut(self.model)

    def _features(self, front: features.Front, split: str, title: str, **how: Any) -> Batches:
        return features.compute(
            front,
            self._images(split),
            objective=self.objective,
            title=title,
            distribution=self.distribution,
            check=SafePoints(self.signals, self.distribution).check,
            seconds=self._checkpoint_seconds,
            **how,
        )

    @property
    def _checkpoint_seconds(self) -> float:
        return 60 * self.config.checkpoint_minutes
