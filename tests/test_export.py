from __future__ import annotations

import importlib.util
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from errors import UserError
from serving import other_formats
from tests.conftest import has_imported
from tests.serving.conftest import SIZE, run, tiny_model

ROOT = pathlib.Path(__file__).resolve().parents[1]
__all__ = ["run"]


def export(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "export.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_a_run_becomes_the_next_version(run, tmp_path: pathlib.Path) -> None:
    done = export(f"--run={run.path}", f"--export_dir={tmp_path}", "--version=3", "--keep_versions=1")
    assert done.returncode == 0, done.stderr
    assert f"Published version 3 of lenet5 (10 classes) in {tmp_path}" in done.stdout
    assert "python -m serving.client" in done.stdout
    assert json.loads((tmp_path / "3" / "assets.extra" / "metadata.json").read_text())["run"] == "lenet5-digits"
    assert tf.saved_model.contains_saved_model(str(tmp_path / "3"))


def test_wrong_flags_are_answered_at_once_and_in_words(tmp_path: pathlib.Path, imports_told: None) -> None:
    for arguments, message in (
        ((), "--run must have a value"),
        ((f"--run={tmp_path}", "extra"), "Received: extra"),
        ((f"--run={tmp_path}", "--format=tflite", "--version=1"), "belong to --format=saved_model"),
        ((f"--run={tmp_path}", "--format=torch"), "saved_model|tflite|onnx"),
    ):
        done = export(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr and "Traceback" not in done.stderr
        assert not has_imported("tensorflow", done.stderr)


def test_help_needs_no_tensorflow() -> None:
    script = "import sys, export; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert "--keep_versions" in export("--help").stdout


class FakeRun:
    """What `other_formats.export` reads of a run."""

    def __init__(self, model: keras.Model, path: pathlib.Path) -> None:
        self.model = model
        self.path = path

    def load_model(self) -> keras.Model:
        return self.model

    def file(self, name: str) -> str:
        return str(self.path / name)


def pixels() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (3, SIZE, SIZE, 3)).astype(np.float32)


# Keras converts by tf.lite, which TensorFlow 2.21 has announced to leave for a package of its own, ai-edge-litert.
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning")
def test_tflite_gives_the_models_logits(tmp_path: pathlib.Path) -> None:
    model = tiny_model(3)
    path = other_formats.export(FakeRun(model, tmp_path), "tflite")
    assert path == str(tmp_path / "export" / "model.tflite")
    interpreter = tf.lite.Interpreter(path)
    run_signature = interpreter.get_signature_runner()
    ((name, _),) = run_signature.get_input_details().items()
    (logits,) = run_signature(**{name: pixels()}).values()
    np.testing.assert_allclose(logits, model(pixels(), training=False), atol=1e-4)


# tf2onnx 1.17 still asks NumPy for np.object, and catches the error.
@pytest.mark.filterwarnings("ignore:In the future `np:FutureWarning")
def test_onnx_gives_the_models_logits(tmp_path: pathlib.Path) -> None:
    for package in ("onnx", "tf2onnx"):
        pytest.importorskip(package, reason=f"{package} isn't installed (extra `onnx`)")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime isn't installed (extra `onnx`)")
    model = tiny_model(3)
    path = other_formats.export(FakeRun(model, tmp_path), "onnx", str(tmp_path))
    session = onnxruntime.InferenceSession(path)
    (logits,) = session.run(None, {session.get_inputs()[0].name: pixels()})
    np.testing.assert_allclose(logits, model(pixels(), training=False), atol=1e-4)


def test_missing_packages_are_named(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="--format=onnx needs the packages onnx and tf2onnx.*pip install onnx tf2onnx"):
        other_formats.export(FakeRun(tiny_model(), tmp_path), "onnx")
