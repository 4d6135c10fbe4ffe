"""Resolves the flags of a training: fills in defaults and refuses contradictions.

Nothing here imports TensorFlow, so a wrong flag is reported at once.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os

import models
from data.service_address import host_and_port
from errors import UserError
from training.config import LEARNING_RATE_FINE_TUNING, TrainConfig, check_ranges, default_loss_weights

LEARNING_RATE_FROM_SCRATCH = 1e-4
LEARNING_RATE_HEAD = 1e-3


def resolved(config: TrainConfig) -> TrainConfig:
    """Fills in the defaults that depend on other flags, and checks what can be checked without TensorFlow.

    Raises:
        UserError: a value is outside its range, two flags contradict each other, or a file or package is missing.
    """
    spec = models.find(config.model)
    check_ranges(config)
    weights = config.weights if config.weights is not None else "imagenet" if spec.weights else "none"
    config = dataclasses.replace(config, weights=weights, image_size=config.image_size or spec.image_size)
    models.check_image_size(config.model, config.image_size or 0)
    _check_together(config)
    _check_loss_weights(config, spec)
    if config.loss_weights is None and len(spec.heads) > 1:
        config = dataclasses.replace(config, loss_weights=default_loss_weights(spec))
    if config.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UserError("--tensorboard needs the package tensorboard. Install it by `pip install -e .[tensorboard]`.")
    if config.resume and not config.run_dir:
        raise UserError("--resume needs the folder of the run to resume. Pass --run_dir=FOLDER.")
    rate = config.learning_rate or _default_learning_rate(config)
    return dataclasses.replace(config, learning_rate=rate, cache="none" if config.data_service else config.cache)


def _default_learning_rate(config: TrainConfig) -> float:
    if config.freeze:
        return LEARNING_RATE_HEAD
    return LEARNING_RATE_FINE_TUNING if config.pretrained else LEARNING_RATE_FROM_SCRATCH


def _check_together(config: TrainConfig) -> None:
    """Checks combinations of flags, paths and packages.

    Args:
        config: with `weights` filled in.

    Raises:
        UserError: two flags contradict each other, or a file or package is missing.
    """
    _check_characters(config)
    _check_fractions(config)
    _check_weights(config, models.find(config.model))
    _check_run_dir(config)
    if config.data_service is not None:
        _check_data_service(config, config.data_service)


def _check_characters(config: TrainConfig) -> None:
    """Refuses NUL, which a flag file can hold, and which Python refuses in a path without naming the flag."""
    for name in ("data", "data_dir", "weights", "run_dir"):
        value = getattr(config, name) or ""
        if "\0" in value:
            raise UserError(f"--{name} must be a name without the character NUL. Received: --{name}={ascii(value)}.")


def _check_fractions(config: TrainConfig) -> None:
    total = config.train_fraction + config.val_fraction + config.test_fraction
    if total > 1 + 1e-9:
        raise UserError(
            "--train_fraction, --val_fraction and --test_fraction must add up to at most 1. "
            f"Received: {config.train_fraction:g} + {config.val_fraction:g} + {config.test_fraction:g} = {total:g}."
        )


def _check_weights(config: TrainConfig, spec: models.ModelSpec) -> None:
    if config.weights == "imagenet" and spec.weights is None:
        published = ", ".join(name for name, row in models.REGISTRY.items() if row.weights)
        raise UserError(
            f"--weights=imagenet needs a model with published weights: {published}. "
            f"Received: --model={config.model}. Pass {'' if config.freeze else '--weights=none, or '}--weights=PATH to "
            "a file of your own, such as the model.keras of a run."
        )
    if config.pretrained and config.weights != "imagenet" and not _may_be_file(config.weights or ""):
        raise UserError(
            "--weights must be imagenet, none, or the path of a weights file. "
            f"Received: --weights={config.weights}, and there is no such file."
        )
    _check_torch(config, spec)
    if config.freeze and not config.pretrained:
        raise UserError(
            f"--freeze trains a new head on a pretrained backbone. Received: --freeze for --model={config.model} with "
            f"random weights. Pass --weights={'imagenet or --weights=' if spec.weights else ''}PATH, such as the "
            "model.keras of another run, or leave out --freeze."
        )
    if config.augmented_views and not (config.freeze and config.augment != "none"):
        raise UserError(
            "--augmented_views keeps the features of random views from a frozen backbone. Received: "
            f"--augmented_views={config.augmented_views} with --augment={config.augment}"
            f"{'' if config.freeze else ' and without --freeze'}. Pass --freeze and --augment=basic or full."
        )
    if config.fine_tune_epochs and not config.freeze:
        raise UserError(
            "--fine_tune_epochs is a second phase after --freeze. Received: "
            f"--fine_tune_epochs={config.fine_tune_epochs} without --freeze. Pass --freeze, or use --epochs alone."
        )


def _check_torch(config: TrainConfig, spec: models.ModelSpec) -> None:
    name = config.weights or ""
    if name == "imagenet" and spec.weights:
        name = spec.weights.backbone.file_name
    if name.endswith((".pth", ".pt")) and importlib.util.find_spec("torch") is None:
        raise UserError(
            f"--weights={config.weights} for --model={config.model} is a file of torchvision, which only the package "
            "torch can read. Install it with `pip install torch` (the CPU build will do), or pass Keras weights with "
            "--weights=PATH, or --weights=none."
        )


def _check_run_dir(config: TrainConfig) -> None:
    run_dir = config.run_dir or ""
    if not run_dir.isprintable() or any("\ud800" <= letter <= "\udfff" for letter in run_dir):
        raise UserError(f"--run_dir must be printable UTF-8. Received: --run_dir={ascii(run_dir)}.")
    if run_dir and _lies_in(run_dir, config.data):
        raise UserError(
            "--run_dir must lie outside the images, or the next run would take it for a class. "
            f"Received: --run_dir={run_dir} in --data={config.data}. Pass another folder, such as runs/NAME."
        )


def _may_be_file(path: str) -> bool:
    """Whether a local file exists; remote paths pass, since only TensorFlow, which loads slowly, can check them."""
    return "://" in path or os.path.isfile(path)


def _lies_in(path: str, folder: str) -> bool:
    if "://" in folder:
        return f"{path}/".startswith(f"{folder.rstrip('/')}/")
    folder = os.path.realpath(folder)
    return (
        "://" not in path and os.path.isdir(folder) and os.path.commonpath([folder, os.path.realpath(path)]) == folder
    )


def _check_data_service(config: TrainConfig, address: str) -> None:
    host_and_port(address)
    if config.deterministic:
        raise UserError(
            "--data_service gives the batches of an epoch in order of arrival, which --deterministic can't allow. "
            "Received both. Leave one of them out."
        )
    if config.cache not in ("auto", "none"):
        raise UserError(
            "--data_service decodes images on other hosts in every epoch, so there is nothing to keep here. "
            f"Received: --data_service={address} with --cache={config.cache}. Pass --cache=none."
        )


def _check_loss_weights(config: TrainConfig, spec: models.ModelSpec) -> None:
    weights = config.parsed_loss_weights
    if len(spec.heads) > 1 and set(weights) != set(spec.heads):
        wanted = ",".join(f"{head}=WEIGHT" for head in spec.heads)
        raise UserError(f"--loss_weights must be {wanted}. Received: --loss_weights={config.loss_weights}.")
