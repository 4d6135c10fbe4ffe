"""Networks: the registry, one literal table of models by name, and `build`.

Importing this package imports neither Keras nor TensorFlow, so that `--help` is quick; the file of a family
(`models/resnet.py`, ...) is imported when a model is built.

To add a model: write its builder in the file of its family (see `ModelSpec.builder`) and add one row to `REGISTRY`.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import TYPE_CHECKING

import errors
import startup
from errors import UserError

if TYPE_CHECKING:
    import keras

KERAS_FILES = "https://storage.googleapis.com/tensorflow/keras-applications"
TORCH_FILES = "https://download.pytorch.org/models"


@dataclasses.dataclass(frozen=True)
class PublishedFile:
    """One file of ImageNet weights.

    Attributes:
        url: address at its publisher; it ends with the file's name.
        checksum: the whole md5 in hexadecimal, or the first 8 digits of the sha256 (as torchvision publishes it).
    """

    url: str
    checksum: str

    @property
    def file_name(self) -> str:
        """The last part of `url`."""
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
        builder: `module:function`; the function takes (spec, num_classes, image_size, transfer), see `build`, and
            returns the model. Subclasses of `keras.Model` are in `models.subclassed`.
        paper: first author, year, and arXiv number or venue.
        image_size: default height and width of the input, in px.
        min_image_size: smallest height and width that the network accepts, in px.
        channels: 3 (RGB) or 1 (gray).
        preprocessing: a key of `models.layers.MODES`.
        parameters: exact number of weights, BatchNorm statistics included, at the default size and `classes` classes.
        weights: the published ImageNet weights, or None.
        classes: the number of classes that `parameters` is stated for.
        heads: names of the outputs, `class` first; ("class",) models return a tensor, others a dict with these keys.
            `training.heads` defines their targets.
        loss_weights: default weight of each head's loss, in the order of `heads`.
    """

    builder: str
    paper: str
    image_size: int
    min_image_size: int
    channels: int
    preprocessing: str
    parameters: int
    weights: PublishedWeights | None = None
    classes: int = 1000
    heads: tuple[str, ...] = ("class",)
    loss_weights: tuple[float, ...] = (1.0,)

    @property
    def name(self) -> str:
        """The name of its builder, and its key in the registry."""
        return self.builder.split(":")[1]

    @property
    def import_needed(self) -> str | None:
        """The module to import before `keras.models.load_model` opens the saved model; None if Keras is enough."""
        module = self.builder.split(":")[0]
        return module if module == "models.subclassed" else None


def _keras_files(folder: str, name: str, *, full: str, backbone: str) -> PublishedWeights:
    stem = f"{KERAS_FILES}/{folder}/{name}_weights_tf_dim_ordering_tf_kernels"
    return PublishedWeights(
        backbone=PublishedFile(f"{stem}_notop.h5", backbone), full=PublishedFile(f"{stem}.h5", full), layout="keras"
    )


def _torch_file(name: str, layout: str) -> PublishedWeights:
    file = PublishedFile(f"{TORCH_FILES}/{name}", name.removesuffix(".pth").rsplit("-", 1)[-1])
    return PublishedWeights(backbone=file, full=file, layout=layout)


_ALEXNET = "Krizhevsky et al. 2012, NeurIPS 25"
_OWT = "Krizhevsky 2014, arXiv:1404.5997"
_BATCH_NORM = "Ioffe and Szegedy 2015, arXiv:1502.03167"
_LENET = "LeCun et al. 1998, Proc. IEEE 86(11)"
_MLP = "Rumelhart et al. 1986, Nature 323"
_MULTITASK = "Caruana 1997, Machine Learning 28"
_RESNET = "He et al. 2015, arXiv:1512.03385"
_SQUEEZENET = "Iandola et al. 2016, arXiv:1602.07360"
_VGG = "Simonyan and Zisserman 2014, arXiv:1409.1556"

_VGG16 = _keras_files(
    "vgg16", "vgg16", full="64373286793e3c8b2b4e3219cbf3544b", backbone="6d6bbae143d832006294945121d1f1fc"
)
_RESNET50 = _keras_files(
    "resnet", "resnet50", full="2cb95161c43110f7111970584f804107", backbone="4d473c1dd8becc155b73f8504c6f6626"
)
_RESNET101 = _keras_files(
    "resnet", "resnet101", full="f1aeb4b969a6efcfb50fad2f0c20cfc5", backbone="88cf7a10940856eca736dc7b7e228a21"
)
_RESNET152 = _keras_files(
    "resnet", "resnet152", full="100835be76be38e30d865e96f2aaae62", backbone="ee4c566cf9a93f14d82f913c2dc6dd0c"
)
_OWT_FILE = _torch_file("alexnet-owt-7be5be79.pth", "torch_alexnet")
_RESNET18 = _torch_file("resnet18-f37072fd.pth", "torch_resnet")
_RESNET34 = _torch_file("resnet34-b627a593.pth", "torch_resnet")

# The columns: name; builder; paper; default and smallest image size, in px; channels; preprocessing; exact number of
# parameters, for 1,000 classes unless `classes` is given; then what only some models have.
# fmt: off
REGISTRY: dict[str, ModelSpec] = {
    "lenet5":      ModelSpec("models.lenet:lenet5",        _LENET,      32,  16, 1, "lecun", 61_706, classes=10),
    "plain_mlp":   ModelSpec("models.mlp:plain_mlp",       _MLP,        28,  4,  1, "centered", 570_602, classes=10),
    "bn_mlp":      ModelSpec("models.subclassed:bn_mlp",   _BATCH_NORM, 28,  4,  1, "centered", 573_386, classes=10),
    "deep_mlp":    ModelSpec("models.mlp:deep_mlp",        _MLP,        128, 4,  3, "centered", 50_927_559, classes=2),
    "multitask":   ModelSpec("models.subclassed:multitask", _MULTITASK, 128, 4,  3, "centered", 50_595_586, classes=2,
                             heads=("class", "brightness"), loss_weights=(0.7, 0.3)),
    "alexnet":     ModelSpec("models.alexnet:alexnet",     _ALEXNET,    227, 67, 3, "centered", 62_378_344),
    "alexnet_owt": ModelSpec("models.alexnet:alexnet_owt", _OWT,        224, 63, 3, "torch", 61_100_840, _OWT_FILE),
    "squeezenet":  ModelSpec("models.squeezenet:squeezenet", _SQUEEZENET, 227, 31, 3, "caffe", 1_235_496),
    "vgg16":       ModelSpec("models.vgg:vgg16",           _VGG,        224, 32, 3, "caffe", 138_357_544, _VGG16),
    "resnet18":    ModelSpec("models.resnet:resnet18",     _RESNET,     224, 32, 3, "torch", 11_699_112, _RESNET18),
    "resnet34":    ModelSpec("models.resnet:resnet34",     _RESNET,     224, 32, 3, "torch", 21_814_696, _RESNET34),
    "resnet50":    ModelSpec("models.resnet:resnet50",     _RESNET,     224, 32, 3, "caffe", 25_636_712, _RESNET50),
    "resnet101":   ModelSpec("models.resnet:resnet101",    _RESNET,     224, 32, 3, "caffe", 44_707_176, _RESNET101),
    "resnet152":   ModelSpec("models.resnet:resnet152",    _RESNET,     224, 32, 3, "caffe", 60_419_944, _RESNET152),
}
# fmt: on


__getattr__ = startup.lazy(
    __name__,
    {
        "load_weights": "models.weights:load",
        "freeze_backbone": "models.layers:freeze_backbone",
        "unfreeze_backbone": "models.layers:unfreeze_backbone",
    },
)


def find(name: str) -> ModelSpec:
    """The row of the registry for `name`; raises `UserError` with the known names if there is none."""
    if name not in REGISTRY:
        raise UserError(
            f"--model must be one of {', '.join(sorted(REGISTRY))}. Received: --model={name}."
            f"{errors.suggestion(name, REGISTRY)}"
        )
    return REGISTRY[name]


def build(name: str, num_classes: int, *, image_size: int | None = None, transfer: bool = False) -> keras.Model:
    """Builds a network with random weights.

    The input is `pixels`: RGB (or gray, see `ModelSpec.channels`) in 0-255, uint8 or float, of shape
    (batch, image_size, image_size, channels). The model has three named layers: `preprocessing`, `backbone`, `head`.
    It returns logits, always float32: (batch, 1) for two classes (positive: class 1), else (batch, num_classes).
    With several heads (`ModelSpec.heads`) it returns a dict by name: `class` (those logits) and the others.

    Args:
        name: a key of `REGISTRY`.
        num_classes: at least 2.
        image_size: height and width in px; None for the model's default.
        transfer: for a backbone with pretrained weights. Its BatchNorm layers always use their stored statistics, even
            while fine-tuning (batches of a few hundred new images must not overwrite the statistics of a million; gamma
            and beta train), and VGG16 and SqueezeNet get a head for few images: global average pooling and one dense
            layer. Other networks do not change.

    Raises:
        UserError: for an unknown name, fewer than two classes, or too small an image size.
    """
    spec = find(name)
    image_size = spec.image_size if image_size is None else image_size
    if num_classes < 2:
        raise UserError(f"`num_classes` must be at least 2. Received: {num_classes}.")
    check_image_size(name, image_size)
    startup.load_tensorflow()
    module, function = spec.builder.split(":")
    return getattr(importlib.import_module(module), function)(spec, num_classes, image_size, transfer)


def check_image_size(name: str, image_size: int) -> None:
    """Raises `UserError` if `image_size` (px) is too small for the network `name`."""
    spec = find(name)
    if image_size < spec.min_image_size:
        raise UserError(
            f"--model={name} needs --image_size of at least {spec.min_image_size} px (default: {spec.image_size}). "
            f"Received: --image_size={image_size}"
        )
