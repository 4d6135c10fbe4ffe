from __future__ import annotations

import importlib.util
import json
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from errors import UserError
from serving import other_formats
from tests.conftest import has_imported
from tests.serving.conftest import SIZE, about, run, tiny_model

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
        ((), "--run must be given. Run folder"),
        ((f"--run={tmp_path}", "extra"), "Received: extra"),
        ((f"--run={tmp_path}", "--format=tflite", "--version=1"), "need --format=saved_model"),
        ((f"--run={tmp_path}", "--format=torch"), "--format must be one of saved_model, tflite, onnx"),
    ):
        done = export(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr and "Traceback" not in done.stderr
        assert not has_imported("tensorflow", done.stderr)


def test_libraries_warn_of_nothing_that_the_user_could_change(run, tmp_path: pathlib.Path) -> None:
    for package in ("onnx", "tf2onnx"):
        pytest.importorskip(package, reason=f"{package} isn't installed (extra `onnx`)")
    done = export(f"--run={run.path}", f"--export_dir={tmp_path}", "--format=onnx")
    assert (done.returncode, done.stderr) == (0, f"Exporting {run.path} ...\n")


def test_help_needs_no_tensorflow() -> None:
    script = "import sys, export; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert "--keep_versions" in export("--help").stdout


def pixels() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (3, SIZE, SIZE, 3)).astype(np.float32)


# Keras converts by tf.lite, which TensorFlow 2.21 has announced to leave for a package of its own, ai-edge-litert.
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning")
def test_tflite_gives_the_models_logits(tmp_path: pathlib.Path) -> None:
    model = tiny_model(3)
    path = str(tmp_path / "model.tflite")
    other_formats.save(model, path, "tflite", about(("a", "b", "c")))
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
    path = str(tmp_path / "model.onnx")
    other_formats.save(model, path, "onnx", about(("a", "b", "c")))
    session = onnxruntime.InferenceSession(path)
    (logits,) = session.run(None, {session.get_inputs()[0].name: pixels()})
    np.testing.assert_allclose(logits, model(pixels(), training=False), atol=1e-4)


def test_a_run_becomes_one_file_that_names_its_classes(run) -> None:
    done = export(f"--run={run.path}", "--format=tflite")
    path = pathlib.Path(run.path, "export", "model.tflite")
    assert (done.returncode, done.stdout) == (0, f"Wrote {path}\n"), done.stderr
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").decode().split() == list(run.class_names)
        assert json.loads(archive.read("metadata.json"))["image_size"] == 32


def test_missing_packages_are_named(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match="The format onnx needs the packages onnx and tf2onnx.*pip install onnx tf2onnx"
    ):
        other_formats.export(run, "onnx")
