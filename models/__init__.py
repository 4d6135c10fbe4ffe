"""The model zoo: one literal table from a model's name to what is known about it, and `build`.

Importing this package imports neither Keras nor TensorFlow, so that `--help` is quick; the family files
(`models/resnet.py`, ...) are imported when a model is built.

To add a model: write its builder in a family file (see `ModelSpec.builder`) and add one row to `REGISTRY`.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import TYPE_CHECKING

from errors import UserError

if TYPE_CHECKING:
    import keras

KERAS_FILES = "https://storage.googleapis.com/tensorflow/keras-applications"
TORCH_FILES = "https://download.pytorch.org/models"


@dataclasses.dataclass(frozen=True)
class PublishedFile:
    """One file of ImageNet weights.

    Attributes:
        url: where its publisher keeps it; the last part is the file's name.
        checksum: the whole md5 in hexadecimal, or the first 8 digits of the sha256 (as torchvision publishes it).
    """

    url: str
    checksum: str

    @property
    def file_name(self) -> str:
        """The last part of the address."""
        return self.url.rsplit("/", 1)[-1]


@dataclasses.dataclass(frozen=True)
class PublishedWeights:
    """The ImageNet weights of a network.

    Attributes:
        backbone: the file without the head (the same file as `full` where there is only one).
        full: the file with the head of 1,000 classes.
        layout: `keras` (legacy HDF5, by layer name), `torch_resnet` or `torch_alexnet` (torchvision state dicts).
    """

    backbone: PublishedFile
    full: PublishedFile
    layout: str


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """What is known about a model before it is built.

    Attributes:
        builder: `module:function`; the function takes (spec, num_classes, image_size, transfer) and gives the model.
        paper: first author, year, and arXiv number or venue.
        image_size: default height and width of the input, in px.
        min_image_size: the smallest height and width that the network's strides leave anything of, in px.
        channels: 3 (RGB) or 1 (grey).
        preprocessing: a key of `models.preprocessing.MODES`.
        parameters: exact number of weights, BatchNorm statistics included, at the default size and `classes` classes.
        classes: the number of classes that `parameters` is stated for.
        weights: the published ImageNet weights, or None.
        heads: names of the outputs; ("class",) models give a tensor, others a dict with these keys.
    """

    builder: str
    paper: str
    image_size: int
    min_image_size: int
    channels: int
    preprocessing: str
    parameters: int
    classes: int = 1000
    weights: PublishedWeights | None = None
    heads: tuple[str, ...] = ("class",)

    @property
    def name(self) -> str:
        """The model's name: that of its builder, and its key in the registry."""
        return self.builder.split(":")[1]


def _keras_files(folder: str, name: str, *, full: str, backbone: str) -> PublishedWeights:
    stem = f"{KERAS_FILES}/{folder}/{name}_weights_tf_dim_ordering_tf_kernels"
    return PublishedWeights(
        backbone=PublishedFile(f"{stem}_notop.h5", backbone), full=PublishedFile(f"{stem}.h5", full), layout="keras"
    )


def _torch_file(name: str, layout: str) -> PublishedWeights:
    file = PublishedFile(f"{TORCH_FILES}/{name}", name.removesuffix(".pth").rsplit("-", 1)[-1])
    return PublishedWeights(backbone=file, full=file, layout=layout)


_LENET = "LeCun et al. 1998, Gradient-based learning applied to document recognition, Proc. IEEE 86(11)"
_SQUEEZENET = "Iandola et al. 2016, arXiv:1602.07360"

REGISTRY: dict[str, ModelSpec] = {
    "lenet5": ModelSpec("models.lenet:lenet5", _LENET, 32, 16, 1, "centred", 61_706, classes=10),
    "squeezenet": ModelSpec("models.squeezenet:squeezenet", _SQUEEZENET, 227, 31, 3, "caffe", 1_235_496),
}


def find(name: str) -> ModelSpec:
    """The row of the registry for `name`; raises `UserError` listing the names when there is none."""
    if name not in REGISTRY:
        raise UserError(f"--model must be one of {', '.join(sorted(REGISTRY))}. Received: --model={name}")
    return REGISTRY[name]


def build(name: str, num_classes: int, *, image_size: int | None = None, transfer: bool = False) -> keras.Model:
    """Builds a network with random weights.

    The input is `pixels`: RGB (or grey, see `ModelSpec.channels`) in 0-255, uint8 or float, of shape
    (batch, image_size, image_size, channels). The model has three named layers: `preprocessing`, `backbone`, `head`.
    It gives logits, always float32: (batch, 1) for two classes (positive means class 1), else (batch, num_classes).
    With several heads it gives a dict: `class` (those logits) and `brightness`, (batch, 1) in 0-1.

    Args:
        name: a key of `REGISTRY`.
        num_classes: at least 2.
        image_size: height and width in px; None takes the model's own.
        transfer: for a backbone trained elsewhere: its BatchNorm uses the stored statistics for ever, also while
            fine-tuning, and the head is the one that suits few pictures (see each family's file).

    Raises:
        UserError: for an unknown name, fewer than two classes, or too small a picture.
    """
    spec = find(name)
    image_size = spec.image_size if image_size is None else image_size
    if num_classes < 2:
        raise UserError(f"A classifier needs at least 2 classes. Received: {num_classes}")
    if image_size < spec.min_image_size:
        raise UserError(
            f"--model={name} needs --image_size of at least {spec.min_image_size} px (default: {spec.image_size}). "
            f"Received: --image_size={image_size}"
        )
    module, function = spec.builder.split(":")
    return getattr(importlib.import_module(module), function)(spec, num_classes, image_size, transfer)


def last_convolution(model: keras.Model) -> str | None:
    """The name, inside `model.get_layer("backbone")`, of the layer that Grad-CAM should look at; None for an MLP.

    See `models.features.last_convolution`.
    """
    from models import features

    return features.last_convolution(model)
