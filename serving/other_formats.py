"""One file for another runtime, by Keras's own exporters: pixels in, logits out."""

from __future__ import annotations

import importlib.util
import os

import keras

from data.files import make_folder, replacing
from errors import UserError
from training.run import Run

_KERAS_NAMES = {"tflite": "litert", "onnx": "onnx"}
_NEEDS = {"tflite": (), "onnx": ("onnx", "tf2onnx")}


def export(run: Run, kind: str, folder: str | None = None) -> str:
    """Writes the best model of `run` as `model.tflite` or `model.onnx`, whole or not at all; returns the path.

    The file takes float32 pixels in 0-255 (batch, image_size, image_size, channels) and gives logits; decoding and
    resizing, which `data.decode.decode` does, is left to its user.

    Args:
        run: a run that has finished an epoch at least.
        kind: `tflite` or `onnx`.
        folder: where to write it; None for `export` in the run's folder.

    Raises:
        UserError: packages are missing, the run has no model yet, or the folder can't be written to.
    """
    missing = [name for name in _NEEDS[kind] if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--format={kind} needs the packages {' and '.join(_NEEDS[kind])}. Missing: {', '.join(missing)}. "
            f"Install them by `pip install {' '.join(missing)}`, or choose --format=saved_model."
        )
    model = _for_inference(run.load_model())
    # Without it Keras's ONNX exporter refuses a model that hasn't been called since it was read from its file.
    pixels = [keras.InputSpec(dtype="float32", shape=model.input_shape, name="pixels")]
    folder = folder or run.file("export")
    make_folder(folder)
    path = os.path.join(folder, f"model.{kind}")
    with replacing(path) as beside:
        model.export(beside, format=_KERAS_NAMES[kind], input_signature=pixels, verbose=False)
    return path


def _for_inference(model: keras.Model) -> keras.Model:
    """The same network with `training=False` written into it.

    Keras's ONNX exporter traces a model as for training: where it holds random layers, BatchNorm would use the batch's
    own statistics.
    """
    pixels = keras.Input(model.input_shape[1:], name="pixels")
    return keras.Model(pixels, model(pixels, training=False))
