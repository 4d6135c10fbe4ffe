"""Loads weight files into a model (all or nothing), and opens the trained model of a run."""

from __future__ import annotations

import contextlib
import importlib
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Iterator, Mapping

import keras
import numpy as np
import tensorflow as tf

import models
from errors import UserError
from models import downloads, weight_formats
from models.layers import unfreeze_backbone
from models.weight_formats import BadFileError, Tensors

# Layers of published heads: a file "with top" may hold them even if only the backbone is wanted.
_HEAD_LAYERS = frozenset({"fc1", "fc2", "fc1000", "predictions", "probs", "conv10", "class_logits"})
_OTHER_NAMES = {"predictions": ("probs", "fc1000")}


def load(model: keras.Model, name: str, source: str, *, include_head: bool = False) -> None:
    """Loads weights into the backbone of `model`, made by `models.build(name, ...)`, and optionally its head.

    Everything is read and compared before the first weight changes.

    Args:
        model: the model to change.
        name: its name in the registry.
        source: `imagenet`, which fetches the published file, or the path (local, `gs://` and so on) of a `.weights.h5`,
            a legacy Keras `.h5`, a `.keras` file, or a torchvision `.pth` (needs torch).
        include_head: also load the head; its shapes must agree (1,000 classes for published files).

    Raises:
        UserError: the file can't be fetched, is damaged, or is of another network.
    """
    spec = models.find(name)
    path = str(downloads.fetch(spec, include_head)) if source == "imagenet" else source
    parts = [model.get_layer("backbone")] + ([model.get_layer("head")] if include_head else [])
    layout = spec.weights.layout if spec.weights else None
    try:
        with local_copy(path) as file, weight_formats.opened(file, layout) as tensors:
            values = _matched(parts, _renamed(parts, tensors) if source == "imagenet" else tensors)
    except BadFileError as problem:
        raise UserError(
            f"--weights={path} can't be used for --model={name}: {problem}. "
            f"Expected: {_expected(spec)}. Pass --weights=PATH to another file, or --weights=none to start from "
            "random weights."
        ) from problem
    for variable, value in values:
        variable.assign(value)


def holds_head(model: keras.Model, name: str, source: str) -> bool:
    """Whether the file at `source` has every layer of `model`'s head, in its shapes; `load` says what is wrong."""
    spec = models.find(name)
    layout = spec.weights.layout if spec.weights else None
    try:
        with local_copy(source) as file, weight_formats.opened(file, layout) as tensors:
            return all(
                [tuple(value.shape) for value in tensors.get(layer.name, [])]
                == [tuple(variable.shape) for variable in layer.weights]
                for layer in layers_with_weights(model.get_layer("head"))
            )
    except BadFileError:
        return False


def load_trained(path: str | pathlib.Path) -> keras.Model:
    """Loads a run's model (`.keras`), not compiled; code in the file is refused, never run.

    Raises:
        UserError: the file is missing, damaged, holds code, or is not a model of this program.
    """
    importlib.import_module("models.subclassed")  # Registers its classes.
    try:
        with local_copy(str(path)) as file:
            _check_trained(file)
            model = keras.saving.load_model(file, compile=False, safe_mode=True)
        for part in ("preprocessing", "backbone", "head"):
            model.get_layer(part)
    except Exception as problem:  # A damaged or hostile archive can raise anything.
        raise UserError(
            f"{path} must be a model.keras written by train.py, whole and without code in it. "
            f"Reading it failed: {weight_formats.first_line(problem)}. Use another run, or train again."
        ) from problem
    if model.get_layer("backbone").trainable:
        # Keras saves whether a layer is trainable, but not which of its variables.
        unfreeze_backbone(model)
    return model


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[pathlib.Path]:
    """A local path with the content of `path`, for libraries that know local files only (h5py, zipfile).

    A remote file, at any path that `tf.io.gfile` supports, is copied to the temporary folder while the block runs. If
    it doesn't exist, neither does the local one.
    """
    if "://" not in path:
        yield pathlib.Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="darkroom-") as folder:
        # The name determines the format.
        local = os.path.join(folder, os.path.basename(path.rstrip("/")))
        if tf.io.gfile.exists(path) and not tf.io.gfile.isdir(path):
            tf.io.gfile.copy(path, local)
        yield pathlib.Path(local)


def layers_with_weights(part: keras.Layer) -> list[keras.Layer]:
    """Every innermost layer that holds weights, in order; the seeds of random layers don't count."""
    inner = part.layers if isinstance(part, keras.Model) else []
    if not inner:
        return [part] if part.weights else []
    return [found for layer in inner for found in layers_with_weights(layer)]


def _check_trained(file: pathlib.Path) -> None:
    if not zipfile.is_zipfile(file):
        raise BadFileError(weight_formats.described(file) if file.is_file() else "there is no such file")
    weight_formats.check_archive(file)
    with zipfile.ZipFile(file) as archive:
        if b'"darkroom>Preprocessing"' in archive.read("config.json"):
            raise BadFileError("it was written by an earlier version of this program, whose layers no longer exist")


def _renamed(parts: list[keras.Model], tensors: Tensors) -> Tensors:
    """Gives the layers of a published file, verified by its checksum, our names if it uses older ones.

    Keras itself reads these files by the order of their layers, so the order is reliable; in other files it is not: the
    first ResNet50 of Keras has two layers of equal shape in the other order.
    """
    names = [layer.name for part in parts for layer in layers_with_weights(part)]
    if len(tensors) != len(names) or all(name in tensors for name in names):
        return tensors
    return dict(zip(names, tensors.values(), strict=True))


def _matched(parts: list[keras.Model], tensors: Tensors) -> list[tuple[keras.Variable, np.ndarray]]:
    """Pairs every variable of the parts with its value; raises BadFileError unless all fit."""
    layers = {layer.name: layer for part in parts for layer in layers_with_weights(part)}
    found = {name: _tensors_of(name, tensors) for name in layers}
    missing = [name for name, values in found.items() if values is None]
    of_heads = _HEAD_LAYERS.union(*(spec.heads for spec in models.REGISTRY.values()))
    extra = [name for name in tensors if name not in layers and name not in of_heads]
    if missing or extra:
        raise BadFileError(_differences(layers, tensors, missing, extra))
    pairs: list[tuple[keras.Variable, np.ndarray]] = []
    for name, layer in layers.items():
        values = found[name] or []
        expected, received = [tuple(v.shape) for v in layer.weights], [tuple(v.shape) for v in values]
        if expected != received:
            raise BadFileError(f"layer {name} has weights of shapes {received} in it, {expected} in the network")
        pairs.extend(zip(layer.weights, values, strict=True))
    return [(variable, weight_formats.as_array(value)) for variable, value in pairs]


def _tensors_of(name: str, tensors: Tensors) -> list | None:
    for candidate in (name, *_OTHER_NAMES.get(name, ())):
        if candidate in tensors:
            return tensors[candidate]
    return None


def _differences(layers: Mapping, tensors: Mapping, missing: list[str], extra: list[str]) -> str:
    parts = [f"it is of another network ({len(tensors)} layers with weights; needed: {len(layers)})"]
    if missing:
        parts.append(f"it lacks {_shortened(missing)}")
    if extra:
        parts.append(f"the network has no {_shortened(extra)}")
    return "; ".join(parts)


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _expected(spec: models.ModelSpec) -> str:
    kinds = "a .weights.h5, legacy Keras .h5 or .keras file"
    if spec.weights is None:
        return f"{kinds} of {spec.name}"
    torch = " or a torchvision .pth" if spec.weights.layout.startswith("torch") else ""
    return f"{kinds}{torch} of {spec.name}, such as {spec.weights.backbone.file_name}"
