"""Reads weight files of several formats into one form: layer name -> its tensors, in the layer's order.

Files are untrusted: tensors are read only once their shapes are known to fit, and pickles only by
`torch.load(weights_only=True)`. Keras refuses links to other files in HDF5, and tensors that claim to be far larger
than what is stored.
"""

from __future__ import annotations

import contextlib
import itertools
import pathlib
import pickle
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
from keras.src.saving.saving_lib import safe_get_h5_dataset, safe_get_h5_group

from errors import UserError

# The tensors are NumPy arrays, or HDF5 datasets that are read only once their shapes are known to fit.
Tensors = dict[str, list[Any]]

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
_LARGEST_SMALL_ARCHIVE, _LARGEST_RATIO = 1 << 25, 10
# What h5py raises for a damaged file.
_DAMAGE = (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)

# Per layout: (pattern of torchvision's module name, our layer's name). Stages and blocks count from one here, and our
# first stage of blocks is conv2.
_TORCH_NAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "torch_resnet": (
        (r"conv1", "conv1_conv"),
        (r"bn1", "conv1_bn"),
        (r"layer(?P<stage>\d+)\.(?P<block>\d+)\.conv(?P<position>\d+)", "conv{stage}_block{block}_{position}_conv"),
        (r"layer(?P<stage>\d+)\.(?P<block>\d+)\.bn(?P<position>\d+)", "conv{stage}_block{block}_{position}_bn"),
        (r"layer(?P<stage>\d+)\.(?P<block>\d+)\.downsample\.0", "conv{stage}_block{block}_0_conv"),
        (r"layer(?P<stage>\d+)\.(?P<block>\d+)\.downsample\.1", "conv{stage}_block{block}_0_bn"),
        (r"fc", "predictions"),
    ),
    "torch_alexnet": (
        (r"features\.0", "conv1"),
        (r"features\.3", "conv2"),
        (r"features\.6", "conv3"),
        (r"features\.8", "conv4"),
        (r"features\.10", "conv5"),
        (r"classifier\.1", "fc6"),
        (r"classifier\.4", "fc7"),
        (r"classifier\.6", "predictions"),
    ),
}
# The order of a Keras layer's variables: kernel, bias; and BatchNorm's gamma, beta, mean, variance.
_ORDER = ("weight", "bias", "running_mean", "running_var")
# Dense layers that follow a flattened feature map: torch flattens (channels, height, width), Keras channels last.
_FLATTENED = {"fc6": (256, 6, 6)}


class BadFileError(Exception):
    """What is wrong with a weight file, in words that complete "it can't be used: ..."."""


@contextlib.contextmanager
def opened(path: pathlib.Path, layout: str | None) -> Iterator[Tensors]:
    """Yields the tensors of a file while it is open; its first bytes and its name tell the format.

    Args:
        path: of a `.weights.h5`, a legacy Keras `.h5`, a `.keras` or a torchvision `.pth` file.
        layout: of the network's published weights, see `models.PublishedWeights`; None without any.

    Raises:
        UserError: for a `.pth` file where torch is not installed.
        BadFileError: damaged, not a weight file, of another network, or hostile.
    """
    if not path.is_file():
        raise BadFileError("there is no such file")
    with path.open("rb") as file:
        start = file.read(8)
    if start == _HDF5:
        with _open_hdf5(path, "a truncated or damaged HDF5 file") as root:
            yield _from_hdf5(root)
    elif path.suffix in (".pth", ".pt"):
        yield from_state_dict(_read_state_dict(path, layout), layout)
    elif start.startswith(_ZIP) and path.suffix == ".keras":
        with _open_archive(path) as member, _open_hdf5(member, "a damaged .keras file") as root:
            yield _from_hdf5(root)
    else:
        raise BadFileError(described(path))


def described(path: pathlib.Path) -> str:
    """Says what a file without weights seems to be."""
    with path.open("rb") as file:
        start = file.read(200)
    if not start:
        return "the file is empty"
    if start.startswith(_ZIP):
        return f"it is a damaged zip archive or one not named .keras or .pth ({path.stat().st_size:,} bytes)"
    if start.startswith(_HDF5):
        return "it is an HDF5 file"
    if start[:1] == pickle.PROTO and start[1] <= pickle.HIGHEST_PROTOCOL:
        return "it is a pickle, which could hold code"
    text = start.decode("utf-8", errors="replace").strip()
    words = " ".join(text.split())[:60]
    if text.startswith("<"):
        return f'it is a web page or an error message of a server, not weights (it starts with "{words}")'
    # The cut at 200 bytes may have split a letter in two.
    if "\ufffd" not in text[:-1]:
        return f'it is text, not weights (it starts with "{words}")'
    return "its first bytes match no known format"


def check_archive(path: pathlib.Path) -> None:
    """Raises BadFileError for an archive that unpacks to far more than its size; Keras doesn't compress its own.

    Keras 3.15 itself refuses such a member only from 4 GiB on.
    """
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > max(_LARGEST_SMALL_ARCHIVE, _LARGEST_RATIO * path.stat().st_size):
        raise BadFileError(f"it would unpack to {unpacked:,} bytes, which no file of this program does")


def first_line(problem: BaseException) -> str:
    """The first line of an error's message, without its period."""
    lines = str(problem).strip().splitlines() or [type(problem).__name__]
    return lines[0].rstrip(".")


def as_array(value: Any) -> np.ndarray:
    """Reads a tensor; raises BadFileError where it can't be read."""
    try:
        return np.asarray(value)
    except (OSError, RuntimeError, ValueError) as problem:
        raise BadFileError(f"it is damaged ({first_line(problem)})") from problem


@contextlib.contextmanager
def _open_archive(path: pathlib.Path) -> Iterator[Any]:
    """The weights inside a `.keras` archive; its configuration, which could name code, is not read."""
    try:
        check_archive(path)
        archive = zipfile.ZipFile(path)
        member = archive.open("model.weights.h5")
    except (zipfile.BadZipFile, KeyError, OSError) as problem:
        raise BadFileError(f"it is a damaged .keras file ({first_line(problem)})") from problem
    with archive, member:
        yield member


@contextlib.contextmanager
def _open_hdf5(source: Any, otherwise: str) -> Iterator[h5py.Group]:
    try:
        file = h5py.File(source, "r")
    except OSError as problem:
        raise BadFileError(f"it is {otherwise} ({first_line(problem)})") from problem
    with file:
        yield file


def _from_hdf5(root: h5py.Group) -> Tensors:
    try:
        if "model_weights" in root:
            root = safe_get_h5_group(root, "model_weights")
        is_legacy = "layer_names" in root.attrs or "layer_names0" in root.attrs
        tensors = _legacy(root) if is_legacy else _current(root)
    except _DAMAGE as problem:
        raise BadFileError(f"it is damaged ({first_line(problem)})") from problem
    if not tensors:
        raise BadFileError("it is an HDF5 file, but not one of Keras weights")
    return tensors


def _legacy(root: h5py.Group) -> Tensors:
    """Keras 1 and 2: the layers' names are an attribute of the file, the tensors' names one of each layer."""
    tensors: Tensors = {}
    for layer in _names(root, "layer_names"):
        group = safe_get_h5_group(root, layer)
        values = [_dataset(group, name) for name in _names(group, "weight_names")]
        if values:
            # Keras 3 allows no slash in a layer's name.
            tensors[layer.replace("/", "_")] = values
    return tensors


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """A list that HDF5's limit on attribute size may have cut into `attribute0`, `attribute1`, ..."""
    keys = [attribute, *(f"{attribute}{i}" for i in range(len(group.attrs)))]
    chunks = [group.attrs[key] for key in keys if key in group.attrs]
    return [name.decode() if isinstance(name, bytes) else str(name) for chunk in chunks for name in chunk]


def _current(root: h5py.Group) -> Tensors:
    """Keras 3: groups nested like the model, each with a group `vars` that holds its layer's name.

    Of a whole model of this program, the backbone's and the head's layers; of any other model, all of them.
    """
    found: dict[str, h5py.Group] = {}

    def note(path: str, item: Any) -> None:
        layer, _, last = path.rpartition("/")
        # The state of an optimizer and the seeds of random layers are not weights of the network.
        if (
            last == "vars"
            and isinstance(item, h5py.Group)
            and not {"optimizer", "seed_generator"} & set(path.split("/"))
        ):
            found[layer] = item

    # Visits every group once, even where hard links form a circle, and follows no other links.
    root.visititems(note)
    names = {layer: str(group.attrs.get("name", layer.rpartition("/")[2])) for layer, group in found.items()}
    filled = [layer for layer, group in found.items() if len(group)]
    ours = [layer for layer in filled if {"backbone", "head"} & set(_names_on_the_way(layer, names))]
    return {
        names[layer]: [_dataset(found[layer], str(i)) for i in range(len(found[layer]))] for layer in ours or filled
    }


def _names_on_the_way(path: str, names: dict[str, str]) -> list[str]:
    steps = itertools.accumulate(path.split("/"), lambda parent, child: f"{parent}/{child}")
    return [names.get(step, step.rpartition("/")[2]) for step in steps]


def _dataset(group: h5py.Group, path: str) -> h5py.Dataset:
    try:
        dataset = safe_get_h5_dataset(group, path)
    except KeyError as problem:
        raise BadFileError(f"it is damaged (it names {path}, which it does not hold)") from problem
    except ValueError as problem:
        raise BadFileError(f"{group.name}/{path} is refused ({first_line(problem)})") from problem
    if dataset.dtype.kind != "f":
        raise BadFileError(f"{group.name}/{path} is not a tensor of floating-point numbers")
    return dataset


def _read_state_dict(path: pathlib.Path, layout: str | None) -> dict[str, np.ndarray]:
    """A torchvision `.pth` file, without running any code in it."""
    if layout not in _TORCH_NAMES:
        raise BadFileError("torchvision's network of this name is not the same network as this one (see models/)")
    try:
        import torch
    except ImportError as problem:
        raise UserError(
            f"Reading {path} needs torch, which is not installed. Install it with `pip install torch` (the CPU build "
            "will do), or pass Keras weights with --weights=PATH."
        ) from problem
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as problem:
        raise BadFileError("it holds more than tensors (code, perhaps), or is damaged") from problem
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as problem:
        raise BadFileError(f"it is damaged ({first_line(problem)})") from problem
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise BadFileError("it is not a state dict: a dictionary from names to tensors")
    return {str(key): value.detach().float().numpy() for key, value in state.items()}


def from_state_dict(state: dict[str, np.ndarray], layout: str | None) -> Tensors:
    """A torchvision state dict under our layer names, in Keras's tensor layouts.

    Raises:
        BadFileError: a name that torchvision's network does not have.
    """
    tensors: dict[str, dict[str, np.ndarray]] = {}
    for key, value in state.items():
        module, _, kind = key.rpartition(".")
        if kind == "num_batches_tracked":
            continue
        name = _layer_name(module, layout or "")
        if name is None or kind not in _ORDER:
            raise BadFileError(f"it is of another network (torchvision's has no {key})")
        tensors.setdefault(name, {})[kind] = _in_keras_layout(name, value)
    return {name: [kinds[kind] for kind in _ORDER if kind in kinds] for name, kinds in tensors.items()}


def _layer_name(module: str, layout: str) -> str | None:
    for pattern, template in _TORCH_NAMES[layout]:
        match = re.fullmatch(pattern, module)
        if match:
            numbers = {group: int(digits) for group, digits in match.groupdict().items()}
            return template.format(**{group: n if group == "position" else n + 1 for group, n in numbers.items()})
    return None


def _in_keras_layout(name: str, tensor: np.ndarray) -> np.ndarray:
    """(out, in, height, width) -> (height, width, in, out); (out, in) -> (in, out)."""
    if tensor.ndim == 4:
        return tensor.transpose(2, 3, 1, 0)
    if tensor.ndim == 2 and name in _FLATTENED:
        channels, height, width = _FLATTENED[name]
        if tensor.shape[1] != channels * height * width:
            raise BadFileError(f"its {name} has {tensor.shape[1]} inputs, torchvision's {channels * height * width}")
        tensor = tensor.reshape(-1, channels, height, width).transpose(0, 2, 3, 1).reshape(len(tensor), -1)
    return tensor.T if tensor.ndim == 2 else tensor
