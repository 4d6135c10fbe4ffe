"""Reading weight files of several layouts into one form: layer name -> its tensors, in the layer's own order.

Files come from strangers. Nothing is read before its shape can be checked, HDF5 links that leave the file are
refused, and pickles are left to `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import contextlib
import pathlib
import pickle
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import keras
import numpy as np

# The tensors are NumPy arrays, or HDF5 datasets that are read only once their shapes are known to fit.
Tensors = dict[str, list[Any]]

_HDF5 = b"\x89HDF\r\n\x1a\n"
# Deeper nesting than any of our models has; hard links of a hostile file can form a circle.
_MAX_DEPTH = 12
_ZIP = b"PK\x03\x04"
_LARGEST_SMALL_ARCHIVE, _LARGEST_RATIO = 1 << 25, 10


class BadFileError(Exception):
    """What is wrong with a weight file, in words that finish the sentence "it can't be used: ..."."""


@contextlib.contextmanager
def opened(path: pathlib.Path, torch_reader: Callable[[pathlib.Path], Tensors]) -> Iterator[Tensors]:
    """Gives the tensors of a file while it is open; what kind of file it is, its first bytes and its name say.

    Raises:
        BadFileError: damaged, not a weight file, or hostile.
    """
    with path.open("rb") as file:
        start = file.read(8)
    if start == _HDF5:
        with _open_hdf5(path) as root:
            yield _from_hdf5(root)
    elif path.suffix in (".pth", ".pt"):
        yield torch_reader(path)
    elif start.startswith(_ZIP) and path.suffix == ".keras":
        with _open_trained(path) as root:
            yield _from_hdf5(root)
    else:
        raise BadFileError(described(path))


def described(path: pathlib.Path) -> str:
    """What a file that is no weight file seems to be."""
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
        return f'it is a text, not weights (it starts with "{words}")'
    return "its first bytes are of no format that is known here"


def check_archive(path: pathlib.Path) -> None:
    """Raises BadFileError for an archive that unpacks to far more than it is; Keras compresses nothing in its own."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > max(_LARGEST_SMALL_ARCHIVE, _LARGEST_RATIO * path.stat().st_size):
        raise BadFileError(f"it would unpack to {unpacked:,} bytes, which no file of ours does")


def first_line(problem: BaseException) -> str:
    """The first line of an error's message, without its full stop."""
    lines = str(problem).strip().splitlines() or [type(problem).__name__]
    return lines[0].rstrip(".")


def layers_with_weights(part: keras.Layer) -> list[keras.Layer]:
    """Every innermost layer that holds weights, in order; the seeds of random layers don't count."""
    inner = part.layers if isinstance(part, keras.Model) else []
    if not inner:
        return [part] if part.weights else []
    return [found for layer in inner for found in layers_with_weights(layer)]


def as_array(value: Any) -> np.ndarray:
    """Reads a tensor; raises BadFileError when it can't be read."""
    try:
        return np.asarray(value)
    except (OSError, RuntimeError, ValueError) as problem:
        raise BadFileError(f"it is damaged ({first_line(problem)})") from problem


@contextlib.contextmanager
def _open_hdf5(path: pathlib.Path) -> Iterator[h5py.Group]:
    try:
        file = h5py.File(path, "r")
    except OSError as problem:
        raise BadFileError(f"it is a truncated or damaged HDF5 file ({first_line(problem)})") from problem
    with file:
        yield file


def _from_hdf5(root: h5py.Group) -> Tensors:
    try:
        if "layer_names" in root.attrs or "layer_names0" in root.attrs:
            return _legacy(root)
        if "model_weights" in root:
            return _legacy(_child(root, "model_weights"))
        if "layers" in root or "vars" in root or "backbone" in root:
            return _current(root)
    except (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as problem:
        # h5py answers damage inside the file with any of these.
        raise BadFileError(f"it is damaged ({first_line(problem)})") from problem
    raise BadFileError("it is an HDF5 file, but not one of Keras weights")


def _legacy(root: h5py.Group) -> Tensors:
    """Keras 1 and 2: the layers' names are an attribute of the file, the tensors' names one of each layer."""
    tensors: Tensors = {}
    for layer in _names(root, "layer_names"):
        group = _child(root, layer)
        values = [_dataset(group, name) for name in _names(group, "weight_names")]
        if values:
            # Keras 3 allows no slash in a layer's name.
            tensors[layer.replace("/", "_")] = values
    return tensors


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """A list that HDF5's limit on the size of an attribute may have cut into `attribute0`, `attribute1`, ..."""
    if attribute in group.attrs:
        chunks = [group.attrs[attribute]]
    else:
        keys = (f"{attribute}{i}" for i in range(len(group.attrs)))
        chunks = [group.attrs[key] for key in keys if key in group.attrs]
    return [name.decode() if isinstance(name, bytes) else str(name) for chunk in chunks for name in chunk]


def _current(root: h5py.Group) -> Tensors:
    """Keras 3: groups named by class, nested like the model; each group `vars` knows its layer's name.

    Of a whole model of ours, the backbone's and the head's layers; of any other model, all of them.
    """
    found = dict(_walk(root, ()))
    ours = {path: tensors for path, tensors in found.items() if {"backbone", "head"} & set(path)}
    return {path[-1]: tensors for path, tensors in (ours or found).items()}


def _walk(group: h5py.Group, parents: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], list[h5py.Dataset]]]:
    path = (*parents, str(group.name))
    if len(path) > _MAX_DEPTH:
        raise BadFileError("its groups are nested too deep for a Keras model")
    if "vars" in group:
        variables = _child(group, "vars")
        path = (*parents, str(variables.attrs.get("name", group.name)))
        if len(variables):
            yield path, [_dataset(variables, str(i)) for i in range(len(variables))]
    for key in group:
        # An optimiser's state and the seeds of random layers are not weights of the network.
        if key not in ("vars", "optimizer", "seed_generator"):
            child = _child(group, key)
            if isinstance(child, h5py.Group):
                yield from _walk(child, path)


def _child(group: h5py.Group, path: str) -> Any:
    """A member of a group, where every link on the way stays in this file."""
    node = group
    for key in path.split("/"):
        link = node.get(key, getlink=True) if isinstance(node, h5py.Group) else None
        if link is None:
            raise BadFileError(f"it is damaged (it names {path}, which it does not hold)")
        if not isinstance(link, h5py.HardLink):
            raise BadFileError(f"{node.name}/{key} is a link to another place or file, which is refused")
        node = node[key]
    return node


def _dataset(group: h5py.Group, path: str) -> h5py.Dataset:
    dataset = _child(group, path)
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != "f" or dataset.shape is None:
        raise BadFileError(f"{group.name}/{path} is not a tensor of floating-point numbers")
    if dataset.external or dataset.is_virtual:
        raise BadFileError(f"{dataset.name} keeps its numbers in another file, which is refused")
    return dataset


@contextlib.contextmanager
def _open_trained(path: pathlib.Path) -> Iterator[h5py.Group]:
    """The weights inside a `.keras` archive; its configuration, which could name code, is not looked at."""
    try:
        check_archive(path)
        with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as member:
            with h5py.File(member, "r") as root:
                yield root
    except (zipfile.BadZipFile, KeyError, OSError) as problem:
        raise BadFileError(f"it is a damaged .keras file ({first_line(problem)})") from problem
