"""torchvision's state dicts in our layer names and tensor layouts. Needs torch, an extra."""

from __future__ import annotations

import pathlib
import pickle
import re
from typing import Any

import numpy as np

from errors import UserError
from models import ModelSpec
from models.weight_files import BadFileError, Tensors, first_line

# Per layout: (pattern of torchvision's module name, our layer's name). Stages and blocks count from one here, and our
# first stage of blocks is conv2.
_NAMES: dict[str, tuple[tuple[str, str], ...]] = {
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


def read(path: pathlib.Path, spec: ModelSpec) -> Tensors:
    """Reads a `.pth` state dict of the network that `spec` describes, without running any code in it.

    Raises:
        UserError: torch is not installed.
        BadFileError: damaged, holds code, or is of a network that torchvision has in another variant.
    """
    if spec.weights is None or spec.weights.layout not in _NAMES:
        raise BadFileError(f"torchvision's {spec.name} is not the same network as this one (see models/)")
    return convert(_state_dict(path), spec.weights.layout)


def convert(state: dict[str, Any], layout: str) -> Tensors:
    """A state dict of NumPy-convertible tensors -> our layer names, in Keras's tensor layouts.

    Raises:
        BadFileError: a name that torchvision's network does not have.
    """
    tensors: dict[str, dict[str, np.ndarray]] = {}
    for key, value in state.items():
        module, _, kind = key.rpartition(".")
        if kind == "num_batches_tracked":
            continue
        name = _our_name(module, layout)
        if name is None or kind not in _ORDER:
            raise BadFileError(f"it is of another network (torchvision's has no {key})")
        tensors.setdefault(name, {})[kind] = _in_keras_layout(name, np.asarray(value))
    return {name: [kinds[kind] for kind in _ORDER if kind in kinds] for name, kinds in tensors.items()}


def _state_dict(path: pathlib.Path) -> dict[str, Any]:
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


def _our_name(module: str, layout: str) -> str | None:
    for pattern, template in _NAMES[layout]:
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
