"""What a training is made of, once its flags are read and its pictures are found."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import keras

import models
from data import service
from data.cache import keep_decoded
from data.pipeline import Elsewhere, Files, Rows
from training.config import TrainConfig
from training.distribution import Distribution
from training.examples import Examples
from training.objective import Objective


@dataclass(frozen=True)
class Job:
    """What stays the same over all phases of a training."""

    config: TrainConfig
    run_dir: str
    examples: Examples
    objective: Objective
    model: keras.Model
    team: Distribution

    def files(self, part: str) -> tuple[Files, list[str]]:
        """The pictures of one part, to be decoded, and their digests."""
        source, digests = self.examples.part(part)
        return Files(source, self.config.image_size or 0, models.find(self.config.model).channels), digests

    def elsewhere(self, rows: Rows) -> Elsewhere | None:
        """Who else makes batches of `rows`; features and decoded pictures are here already."""
        address = self.config.data_service
        return functools.partial(service.distributed, address) if address and isinstance(rows, Files) else None

    @functools.cached_property
    def decoded(self) -> tuple[Rows, Rows]:
        """The pictures to train and to validate on, decoded once for all phases."""
        train, val = (keep_decoded(*self.files(part), self.config.cache) for part in ("train", "val"))
        return train, val
