"""The configuration of a training run: one field per flag, checked before anything slow is imported."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import errors
import models
from data import AUGMENTATIONS
from errors import UserError

# The file in a run folder that holds the configuration.
CONFIG = "config.json"

LEARNING_RATE_FINE_TUNING = 1e-5

# What a resume may change: when training ends.
EXTENDABLE = ("epochs", "fine_tune_epochs", "early_stopping")

_RANGES = {
    "image_size": (8, 4096),
    "train_fraction": (0.0, 1.0),
    "val_fraction": (0.0, 1.0),
    "test_fraction": (0.0, 1.0),
    "batch_size": (1, 65536),
    "epochs": (1, 100_000),
    "fine_tune_epochs": (0, 100_000),
    "augmented_views": (0, 1000),
    "learning_rate": (0.0, 10.0),
    "fine_tune_learning_rate": (0.0, 10.0),
    "early_stopping": (0, 100_000),
    "seed": (0, 2**31 - 1),
    "checkpoint_minutes": (0.0, 24 * 60.0),
}
_POSITIVE = ("train_fraction", "val_fraction", "test_fraction", "learning_rate", "fine_tune_learning_rate")


def _several_heads() -> dict[str, models.ModelSpec]:
    return {name: spec for name, spec in models.REGISTRY.items() if len(spec.heads) > 1}


def default_loss_weights(spec: models.ModelSpec) -> str:
    """The loss weights of a model's heads, as `--loss_weights` takes them."""
    return ",".join(f"{head}={weight:g}" for head, weight in zip(spec.heads, spec.loss_weights, strict=True))


def _flag(default: Any, help_text: str, choices: Collection[str] = ()) -> Any:
    """A field with the help text and choices of its flag; `choices` may grow after the flag was defined."""
    return field(default=default, metadata={"help": help_text, "choices": choices})


@dataclass(frozen=True)
class TrainConfig:
    """The flags of a run. Fields that are None take a default that depends on the others (see `resolved`)."""

    model: str = _flag("resnet50", "Network to train.", models.REGISTRY)
    data: str = _flag(
        "cats_vs_dogs",
        "Images: a folder with one sub-folder per class, a .csv of path,label, TFRecord files ('FOLDER/train-*'), a "
        "TensorFlow Datasets name (cats_vs_dogs, mnist, ...), or digits (with scikit-learn, needs no download).",
    )
    data_dir: str | None = _flag(
        None, "Folder where TensorFlow Datasets keeps prepared data sets. Default: ~/tensorflow_datasets."
    )
    on_bad_image: str = _flag(
        "fail",
        "What to do about unreadable images. fail: list them and stop; skip: train without them.",
        ("fail", "skip"),
    )
    train_fraction: float = _flag(0.8, "Fraction of the images to train on, above 0, at most 1.")
    val_fraction: float = _flag(
        0.1, "Fraction of the images for validation, by which the best epoch is chosen, above 0, below 1."
    )
    test_fraction: float = _flag(
        0.1, "Fraction of the images for the final test, above 0, below 1. A data set with a test split keeps its own."
    )
    image_size: int | None = _flag(None, "Height and width that images are resized to, in px. Default: the model's.")
    augment: str = _flag(
        "none",
        "Augmentation of training images. basic: resized crop, which suits digits and letters too; full, for "
        "photographs: also horizontal flip, rotation and color jitter.",
        AUGMENTATIONS,
    )
    cache: str = _flag(
        "auto",
        "Where decoded images are kept between epochs. auto: the first of memory, disk and none that has room.",
        ("auto", "memory", "disk", "none"),
    )
    data_service: str | None = _flag(
        None,
        "Address, grpc://HOST:PORT, of a tf.data service whose hosts decode and augment the images in every epoch "
        "(python -m data.serve). Default: this machine does.",
    )
    augmented_views: int = _flag(
        0,
        "With --freeze and --augment: number of augmented views per image whose features are computed once and then "
        "trained on in turn. 0: compute the backbone in every epoch.",
    )
    weights: str | None = _flag(
        None,
        "Weights to start from: imagenet, none, or the PATH of a .weights.h5, .h5, .keras or .pth file. "
        "A run's model.keras brings its head along where the class names are the same. "
        "Default: imagenet where they are published for the model, else none.",
    )
    freeze: bool = _flag(False, "Train only the head, on a frozen backbone.")
    epochs: int = _flag(10, "Number of training epochs, 1 or more. With --resume: the number to extend the run to.")
    learning_rate: float | None = _flag(
        None,
        "Learning rate of Adam. Default: 1e-3 with --freeze, 1e-4 from scratch, 1e-5 from pretrained weights, with "
        "their head or a new one.",
    )
    learning_rate_schedule: str = _flag(
        "constant",
        "How the learning rate changes within a phase. cosine: decays to 0 along half a cosine over all epochs of the "
        "phase; where --resume extends it, over the new number of epochs.",
        ("constant", "cosine"),
    )
    fine_tune_epochs: int = _flag(0, "With --freeze: number of further epochs with everything unfrozen. 0: none.")
    fine_tune_learning_rate: float = _flag(
        LEARNING_RATE_FINE_TUNING, "Learning rate of Adam in the --fine_tune_epochs."
    )
    batch_size: int = _flag(32, "Global batch size: images per step, over all devices together.")
    loss_weights: str | None = _flag(
        None,
        "For a model with several heads: the weight of each head's loss, NAME=WEIGHT,... Default: "
        + "; ".join(f"{default_loss_weights(spec)} ({name})" for name, spec in _several_heads().items())
        + ".",
    )
    early_stopping: int = _flag(0, "Stop a phase after this many epochs without a better validation loss. 0: never.")
    precision: str = _flag("float32", "Keras dtype policy.", ("float32", "mixed_bfloat16", "mixed_float16"))
    strategy: str = _flag(
        "auto",
        "Devices to train on. auto: the workers of TF_CONFIG where it is set, else all GPUs of this machine; "
        "mirrored: all devices of this machine; multi_worker: the workers of TF_CONFIG; none: one device.",
        ("auto", "none", "mirrored", "multi_worker"),
    )
    require_gpu: bool = _flag(False, "Fail if no GPU is found, instead of training on the CPU.")
    seed: int = _flag(
        0, "Seed of initial weights, image order and augmentation, 0 or more. The split doesn't depend on it."
    )
    deterministic: bool = _flag(False, "Give bit-identical results on the same machine, at a lower speed.")
    run_dir: str | None = _flag(None, "Folder for the results. Default: runs/MODEL-DATA-TIME.")
    resume: bool = _flag(
        False,
        "Resume the run in --run_dir with the flags it was started with, or start it if there is none yet. --epochs "
        "and --fine_tune_epochs may be raised, also of a finished run, and --early_stopping changed.",
    )
    checkpoint_minutes: float = _flag(10.0, "Minutes between checkpoints for --resume. 0: after every step.")
    tensorboard: bool = _flag(
        False, "Write TensorBoard logs to RUN_DIR/tensorboard (needs `pip install -e .[tensorboard]`)."
    )

    @property
    def pretrained(self) -> bool:
        """Whether the backbone starts from pretrained weights."""
        return self.weights not in (None, "none")

    @property
    def parsed_loss_weights(self) -> dict[str, float]:
        """`loss_weights` as a mapping from head to weight; the model's defaults where they are not given."""
        given = self.loss_weights
        return _parse_loss_weights(default_loss_weights(models.find(self.model)) if given is None else given)


def check_ranges(config: TrainConfig) -> None:
    """Raises `UserError` for a value outside its range or its choices."""
    for name, (low, high) in _RANGES.items():
        value = getattr(config, name)
        if value is None:
            continue
        # Written so that NaN, which compares false with everything, is refused too.
        if not low <= value <= high or (value == 0 and name in _POSITIVE):
            least = f"above {low:g}" if name in _POSITIVE else f"at least {low:g}"
            raise UserError(f"--{name} must be {least} and at most {high:.10g}. Received: --{name}={value}.")
    models.find(config.model)
    for item in dataclasses.fields(config):
        choices = item.metadata["choices"]
        if choices and item.name != "model" and getattr(config, item.name) not in choices:
            received = getattr(config, item.name)
            raise UserError(
                f"--{item.name} must be one of {', '.join(choices)}. Received: --{item.name}={received}."
                f"{errors.suggestion(str(received), choices)}"
            )


def _parse_loss_weights(text: str) -> dict[str, float]:
    pairs = re.findall(r"(\w+)=([0-9.eE+-]+)(?:,|$)", text)
    try:
        weights = {name: float(weight) for name, weight in pairs}
    except ValueError:
        weights = {}
    if not weights or ",".join(f"{name}={weight}" for name, weight in pairs) != text or min(weights.values()) < 0:
        example = default_loss_weights(next(iter(_several_heads().values())))
        raise UserError(
            "--loss_weights must be NAME=WEIGHT pairs with a comma between them and weights of 0 or more, such as "
            f"{example}. Received: --loss_weights={text}."
        )
    return weights
