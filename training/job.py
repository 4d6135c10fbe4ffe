"""What stays the same over all phases of a training, and what each of them is fitted on."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import keras

import models
from data import service
from data.cache import keep_decoded
from data.pipeline import Elsewhere, Files, Rows, Table, Targets, ordered_batches, steps_per_epoch
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

    def files(self, part: str) -> tuple[Files, list[str]]:
        """The images of one part, to be decoded, and their digests."""
        source, digests = self.examples.part(part)
        return Files(source, self.config.image_size or 0, models.find(self.config.model).channels), digests

    def elsewhere(self, rows: Rows) -> Elsewhere | None:
        """Who else makes batches of `rows`; features and decoded images are here already."""
        address = self.config.data_service
        return functools.partial(service.distributed, address) if address and isinstance(rows, Files) else None

    @functools.cached_property
    def decoded(self) -> tuple[Rows, Rows]:
        """The images to train and to validate on, decoded once for all phases."""
        # Every worker decodes for itself, or finds what it needs; there is nothing to agree on.
        is_due = Pause(self.signals, self.checkpoint_seconds)
        train, val = (keep_decoded(*self.files(part), self.config.cache, is_due) for part in ("train", "val"))
        return train, val

    def trainee_and_rows(self, phase: Phase) -> tuple[keras.Model, Rows, Rows]:
        """The model to fit and what to fit and validate it on.

        That is pixels, or features where a frozen backbone always gives the same.
        """
        if not phase.is_frozen or (self.config.augment != "none" and not self.config.augmented_views):
            return (self._frozen if phase.is_frozen else self.model), *self.decoded
        train = self._features("train", "features for training", views=transfer.views(self.config))
        return self._halves[1], train, self._features("val", "features for validation")

    def sees_pixels(self, trainee: keras.Model) -> bool:
        """Whether `trainee` is fitted on images, and not on the features of a frozen backbone."""
        return trainee is self.model or trainee is self._frozen

    @functools.cached_property
    def _frozen(self) -> keras.Model:
        return frozen(self.model)

    @functools.cached_property
    def _halves(self) -> tuple[features.Front, keras.Model]:
        return features.cut(self.model)

    def _features(self, part: str, title: str, **how: Any) -> Table:
        return features.compute(
            self._halves[0],
            *self.files(part),
            objective=self.objective,
            batch_size=self.config.batch_size,
            title=title,
            team=self.team,
            is_due=Pause(self.signals, self.checkpoint_seconds, Agreement(self.team, self.checkpoint_seconds)),
            **how,
        )

    def validation(self, trainee: keras.Model, rows: Rows) -> Any:
        """Batches to evaluate `trainee` on."""
        targets = self.objective.targets if self.sees_pixels(trainee) else None
        size, elsewhere = self.config.batch_size, self.elsewhere(rows)
        return self.team.batches(lambda share: ordered_batches(rows, size, targets, share, elsewhere=elsewhere))

    def test(self, model: keras.Model) -> dict[str, float]:
        """Loss and metrics of the trained `model` on the test part, by features where its backbone stayed frozen.

        Then its backbone is that of the job's own model.
        """
        rows: Rows = self.files("test")[0]
        targets: Targets | None = self.objective.targets
        if transfer.phases(self.config)[-1].is_frozen:
            _, model = features.cut(model)
            rows, targets = self._features("test", "features for testing"), None
        self.team.compile(model, self.objective.compile_arguments)
        size = self.config.batch_size
        batches = self.team.batches(lambda share: ordered_batches(rows, size, targets, share))
        metrics = model.evaluate(batches, steps=steps_per_epoch(rows, size), return_dict=True, verbose=0)
        return {name: float(value) for name, value in metrics.items()}
