"""One file for another runtime, by Keras's own exporters: pixels in, logits out, the class names inside."""

from __future__ import annotations

import importlib.util
import os
import zipfile
from collections.abc import Callable

import keras

from data.files import make_folder, replacing
from errors import UserError
from serving.export import describe
from serving.metadata import Metadata
from training.run import Run

_KERAS_NAMES = {"tflite": "litert", "onnx": "onnx"}
_NEEDS = {"tflite": (), "onnx": ("onnx", "tf2onnx")}


def export(run: Run, kind: str, folder: str | None = None) -> str:
    """Writes the best model of `run` as `model.tflite` or `model.onnx`, whole or not at all; returns the path.

    Args:
        run: a run that has finished an epoch at least.
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

    The file takes float32 pixels in 0-255 (batch, image_size, image_size, channels) and gives logits (one for two
    classes), and by its name what each further head gives. Decoding and resizing as `data.decode.decode` does is left
    to its user.

    Args:
        model: as `serving.export.save` takes it.
        path: ends in `.tflite` or `.onnx`.
        kind: `tflite` or `onnx`.
        metadata: lies in a TFLite file as `metadata.json` and `labels.txt`, which `unzip` and Android's tools find, and
            in an ONNX file as the properties `metadata` and `class_names`.
    """
    size, channels = metadata.image_size, metadata.channels
    pixels = keras.InputSpec(dtype="float32", shape=(None, size, size, channels), name="pixels")
    for_inference = _for_inference(model, pixels)
    for_inference.export(path, format=_KERAS_NAMES[kind], input_signature=[pixels], verbose=False)
    describe_file: dict[str, Callable[[str, Metadata], None]] = {"tflite": _describe_tflite, "onnx": _describe_onnx}
    describe_file[kind](path, metadata)


def _check_packages(kind: str) -> None:
    missing = [name for name in _NEEDS[kind] if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--format={kind} needs the packages {' and '.join(_NEEDS[kind])}. Missing: {', '.join(missing)}. "
            f"Install them by `pip install {' '.join(missing)}`, or choose --format=saved_model."
        )


def _for_inference(model: keras.Model, spec: keras.InputSpec) -> keras.Model:
    """The same network as a functional model with `training=False` written into it.

    Keras's ONNX exporter traces a model as for training: where it holds random layers, BatchNorm would use the batch's
    own statistics. And a subclassed model has no input of its own until it is called on one.
    """
    pixels = keras.Input(spec.shape[1:], name=spec.name)
    return keras.Model(pixels, model(pixels, training=False))


def _describe_tflite(path: str, metadata: Metadata) -> None:
    # A TFLite reader ignores what follows the model; the format's own metadata tools append a zip archive, too.
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("metadata.json", metadata.to_json() + "\n")
        archive.writestr("labels.txt", "".join(f"{name}\n" for name in metadata.class_names))


def _describe_onnx(path: str, metadata: Metadata) -> None:
    import onnx

    model = onnx.load(path)
    properties = {"metadata": metadata.to_json(), "class_names": "\n".join(metadata.class_names)}
    onnx.helper.set_model_props(model, properties)
    onnx.save(model, path)
