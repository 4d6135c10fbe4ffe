"""The network that a training starts from: built for the classes, with the weights that `weights` names."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence

import keras
import tensorflow as tf

import models
from data.names import printable, shortened
from models import weights
from training.config import CONFIG, TrainConfig
from training.run import Run
from training.run_files import MODEL


def build(config: TrainConfig, class_names: tuple[str, ...]) -> keras.Model:
    """Builds the network, loads its weights, and prints a summary.

    Raises:
        UserError: the weights don't fit the network, or their file is damaged.
    """

    def network(is_transfer: bool) -> keras.Model:
        return models.build(config.model, len(class_names), image_size=config.image_size, transfer=is_transfer)

    model, head = network(config.pretrained), ""
    if config.pretrained:
        file = config.weights or ""
        names = class_names_of(file)
        # Some networks have another head when trained from scratch than for transfer.
        candidates = itertools.chain([model], map(network, [False])) if names == class_names else ()
        fitting = next((each for each in candidates if weights.holds_head(each, config.model, file)), None)
        model = model if fitting is None else fitting
        weights.load(model, config.model, file, include_head=fitting is not None)
        head = f" Head: {_origin(file, names, class_names, is_kept=fitting is not None)}."
    size = f"{model.count_params():,} parameters, {config.image_size} px"
    print(f"Model: {config.model}, {size}, weights: {config.weights}.{head}")
    return model


def class_names_of(file: str) -> tuple[str, ...] | None:
    """The classes that a run's model.keras was trained on; None for other weights files.

    Raises:
        UserError: a file of the run is damaged, or model.keras belongs to another run.
    """
    folder, name = os.path.split(file)
    if name != MODEL or not tf.io.gfile.exists(os.path.join(folder, CONFIG)):
        return None
    run = Run.open(folder)
    run.check_model()
    return run.class_names


def _origin(file: str, names: Sequence[str] | None, class_names: Sequence[str], *, is_kept: bool) -> str:
    """Whether the head is kept from the weights file, and why."""
    if is_kept:
        return f"kept from {file}, whose {len(class_names)} classes are the same"
    if names is None:
        return "new"
    if names == class_names:
        return f"new, since the head in {file} has another shape"
    return f"new, since the head in {file} is for other classes: {printable(shortened(list(names)))}"
