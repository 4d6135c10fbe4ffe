"""Exports a run to one TFLite or ONNX file with Keras's exporters: pixels in, logits out, class names inside."""

from __future__ import annotations

import importlib.util
import math
import os
import zipfile
from collections.abc import Sequence
from typing import Any

import keras

from data.files import make_folder, replacing
from errors import UserError
from serving.export import describe
from serving.wire import Metadata
from training.run import Run

_NEEDS = {"tflite": (), "onnx": ("onnx", "tf2onnx")}
# Weights with at least this many numbers, 256 kB in float32, are kept out of the conversion to ONNX.
_LARGE = 1 << 16
_WEIGHT = "large_weight_"


def export(run: Run, kind: str, folder: str | None = None) -> str:
    """Writes the best model of `run` as `model.tflite` or `model.onnx`, whole or not at all; returns the path.

    Args:
        run: a run that has finished at least one epoch.
        kind: `tflite` or `onnx`.
        folder: where to write it; None for `export` in the run's folder.

    Raises:
        UserError: packages are missing, the run has no model yet, or the folder can't be written to.
    """
    _check_packages(kind)
    model, about = run.load_model(), describe(run)
    folder = folder or run.file("export")
    make_folder(folder)
    path = os.path.join(folder, f"model.{kind}")
    with replacing(path) as beside:
        save(model, beside, kind, about)
    return path


def save(model: keras.Model, path: str, kind: str, metadata: Metadata) -> None:
    """Writes `model` to the file `path`, with its metadata inside.

    The file takes float32 pixels in 0-255 (batch, image_size, image_size, channels) and returns logits (one for two
    classes), and the output of each further head by its name. Its user must decode and resize images as
    `data.decode.decode` does.

    Args:
        model: as `serving.export.save` takes it.
        path: ends in `.tflite` or `.onnx`.
        kind: `tflite` or `onnx`.
        metadata: stored in a TFLite file as `metadata.json` and `labels.txt`, which `unzip` and Android's tools find,
            and in an ONNX file as the properties `metadata` and `class_names`.
    """
    size, channels = metadata.image_size, metadata.channels
    pixels = keras.InputSpec(dtype="float32", shape=(None, size, size, channels), name="pixels")
    for_inference = _for_inference(model, pixels)
    if kind == "tflite":
        for_inference.export(path, format="litert", input_signature=[pixels], verbose=False)
        _describe_tflite(path, metadata)
    else:
        large = [weight for weight in model.variables if math.prod(weight.shape) >= _LARGE]
        inputs = [keras.InputSpec(weight.dtype, weight.shape, name=f"{_WEIGHT}{i}") for i, weight in enumerate(large)]
        WithWeights(for_inference, large).export(
            path, format="onnx", input_signature=[[pixels, *inputs]], verbose=False
        )
        _complete_onnx(path, large, metadata)


class WithWeights(keras.Model):
    """A network as a function of pixels and of the values of its large weights.

    tf2onnx copies every constant dozens of times, AlexNet's 57 million weights into more than 9 GB, but no inputs.
    The file gets the values of these inputs as constants afterwards.

    Args:
        network: takes pixels, and ignores the argument `training`.
        large: its variables whose values follow the pixels in the inputs.
    """

    def __init__(self, network: keras.Model, large: Sequence[keras.Variable]) -> None:
        """See the class."""
        super().__init__()
        self.network = network
        self.large = tuple(large)
        self.built = True

    def call(self, inputs: Sequence[Any]) -> Any:
        """The network's output for the first of `inputs`, with the others as its large weights."""
        pixels, *values = inputs
        with keras.StatelessScope(state_mapping=list(zip(self.large, values, strict=True))):
            return self.network(pixels)


def _check_packages(kind: str) -> None:
    missing = [name for name in _NEEDS[kind] if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"The format {kind} needs the packages {' and '.join(_NEEDS[kind])}. Missing: {', '.join(missing)}. "
            f"Install them by `pip install {' '.join(missing)}`, or choose the format saved_model."
        )


def _for_inference(model: keras.Model, spec: keras.InputSpec) -> keras.Model:
    """The same network as a functional model with `training=False` built in.

    Keras's ONNX exporter traces a model as for training: with random layers in it, BatchNorm would use the statistics
    of the batch. And a subclassed model has no input until it is called on one.
    """
    pixels = keras.Input(spec.shape[1:], name=spec.name)
    return keras.Model(pixels, model(pixels, training=False))


def _describe_tflite(path: str, metadata: Metadata) -> None:
    # A TFLite reader ignores what follows the model; the format's metadata tools append a zip archive, too.
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("metadata.json", metadata.to_json() + "\n")
        archive.writestr("labels.txt", "".join(f"{name}\n" for name in metadata.class_names))


def _complete_onnx(path: str, large: Sequence[keras.Variable], metadata: Metadata) -> None:
    """Puts the large weights and the metadata into the file."""
    import onnx

    model = onnx.load(path)
    for entry in [entry for entry in model.graph.input if entry.name.startswith(_WEIGHT)]:
        values = keras.ops.convert_to_numpy(large[int(entry.name.removeprefix(_WEIGHT))])
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, entry.name))
        model.graph.input.remove(entry)
    properties = {"metadata": metadata.to_json(), "class_names": "\n".join(metadata.class_names)}
    onnx.helper.set_model_props(model, properties)
    onnx.save(model, path)
