"""Fixtures for all tests: the shared data where there is some, and small folders of real images."""

from __future__ import annotations

import io
import os
import pathlib
import signal

# Read when TensorFlow is loaded; 2 leaves only errors.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest
from PIL import Image

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run_slow", action="store_true", help="also run the tests marked slow")


def pytest_configure(config: pytest.Config) -> None:
    # A shell without job control lets what it starts in the background ignore Ctrl-C; here it must mean something.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # And `nohup` lets it ignore a lost terminal.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--run_slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow; pass --run_slow"))


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """No test reads or fills the user's own cache of scans, pixels and features."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of real images and weights beside the project; users don't have it."""
    if not SHARED.is_dir():
        pytest.skip("the folder of real images and weights is not beside the project")
    return SHARED


def encode(pixels: np.ndarray, form: str = "JPEG") -> bytes:
    """The file that Pillow writes for `pixels`."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def stripes(seed: int, *, upright: bool, size: tuple[int, int] = (48, 40)) -> np.ndarray:
    """An image of stripes with noise, which tiny networks learn within a few steps."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    wave = 90 * np.sign(np.sin((columns if upright else rows) * 0.8 + generator.uniform(0, 6)))
    pixels = 128 + wave[..., np.newaxis] + generator.normal(0, 15, (*size, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def write_photos(root: pathlib.Path, count: int) -> pathlib.Path:
    """Fills the new folder `root` with `count` JPEG files each of the classes `lying` and `upright`."""
    for name in ("lying", "upright"):
        (root / name).mkdir(parents=True)
        for i in range(count):
            image = encode(stripes(i + 100 * (name == "upright"), upright=name == "upright"))
            (root / name / f"{i:02d}.jpg").write_bytes(image)
    return root


@pytest.fixture
def image_folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder `photos` with 20 JPEG files each of the classes `lying` and `upright`."""
    return write_photos(tmp_path / "photos", 20)


@pytest.fixture
def imports_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that a test starts write to stderr what they import."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")


def has_imported(package: str, stderr: str) -> bool:
    """Whether a program under `imports_told` has imported `package`."""
    lines = [line for line in stderr.splitlines() if line.startswith("import time:")]
    assert lines, "nothing is told of any import"
    return package in {line.rsplit("|", 1)[-1].strip() for line in lines}
