"""Runs the code of docs/python.md in a process of its own, as a notebook would."""

from __future__ import annotations

import importlib
import os
import pathlib
import re
import subprocess
import sys

import keras
import pytest

import models
from tests.conftest import write_photos

ROOT = pathlib.Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess:
    folder = tmp_path_factory.mktemp("notebook")
    write_photos(folder / "photos", 20)
    keras.utils.set_random_seed(0)
    models.build("squeezenet", 2, image_size=96, transfer=True).save_weights(folder / "squeezenet.weights.h5")
    check = """
_, accuracy = model.evaluate(data.Batches(splits["test"], **how).evaluation(), verbose=0)
assert abs(result["accuracy"] - accuracy) < 1e-6
"""
    code = BLOCKS[0] + check + BLOCKS[1] + BLOCKS[2]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "cache")}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def test_the_page_runs(done: subprocess.CompletedProcess) -> None:
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\d+\.\d% \(\d+\.\d% to \d+\.\d%\)$", done.stdout, re.MULTILINE)
    assert "export/1" in done.stdout and "'accuracy'" in done.stdout


def test_tensorflow_is_quiet(done: subprocess.CompletedProcess) -> None:
    for noise in ("oneDNN", "absl::InitializeLog", "cuInit", "cuda drivers", "UserWarning"):
        assert noise not in done.stderr


def test_the_path_takes_twenty_lines() -> None:
    lines = [line for line in BLOCKS[0].splitlines() if line.strip()]
    assert len(lines) <= 20


@pytest.mark.parametrize("package", ["data", "models", "training", "evaluation", "serving"])
def test_a_name_that_a_package_lacks_is_an_attribute_error(package: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        _ = importlib.import_module(package).nothing
