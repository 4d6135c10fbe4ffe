"""What can be known without looking at the images is said before they are looked at."""

from __future__ import annotations

import dataclasses
import fcntl
import importlib.util
import pathlib
import socket

import pytest

import models
from errors import UserError
from tests.conftest import write_photos
from training import trainer
from training.config import TrainConfig
from training.resolve import resolved


@pytest.fixture
def flags(tmp_path: pathlib.Path) -> dict[str, str]:
    """Images that a scan refuses, so that its message would come first if it came first."""
    photos = write_photos(tmp_path / "photos", 2)
    (photos / "lying" / "bad.jpg").write_bytes(b"bad")
    return {"model": "lenet5", "data": str(photos), "run_dir": str(tmp_path / "run")}


def refused(**given: object) -> str:
    with pytest.raises(UserError) as caught:
        trainer.train(resolved(TrainConfig(**given)), command="")  # type: ignore[arg-type]
    return str(caught.value)


def test_a_folder_with_a_run_or_with_other_files(flags: dict[str, str], tmp_path: pathlib.Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    assert "must be a new or an empty folder" in refused(**flags)
    (tmp_path / "run" / "config.json").write_text("{}")
    assert "holds a run already" in refused(**flags)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.json", "thesis.txt"]


def test_a_folder_in_which_another_process_trains(flags: dict[str, str], tmp_path: pathlib.Path) -> None:
    (tmp_path / "run").mkdir()
    with open(tmp_path / "run" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "Another process is training in --run_dir=" in refused(**flags)


@pytest.mark.parametrize("place", ["/proc/x", "/proc/x/y", "/dev/null/x", "/dev/null"])
def test_a_folder_that_nobody_can_make(flags: dict[str, str], place: str) -> None:
    message = refused(**{**flags, "run_dir": place})
    assert f"--run_dir={place}" in message and "Pass another folder" in message


def test_a_folder_that_can_be_made_is_not_made_yet(flags: dict[str, str], tmp_path: pathlib.Path) -> None:
    assert "must be a whole JPEG" in refused(**{**flags, "run_dir": str(tmp_path / "new" / "run")})
    assert not (tmp_path / "new").exists()


def test_imagenet_weights_without_a_network(
    flags: dict[str, str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        file = models.PublishedFile(f"http://127.0.0.1:{nobody.getsockname()[1]}/weights.h5", "0" * 32)
        published = models.PublishedWeights(backbone=file, full=file, layout="keras")
        spec = dataclasses.replace(models.find("resnet50"), weights=published)
        monkeypatch.setitem(models.REGISTRY, "resnet50", spec)
        monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setenv("no_proxy", "*")
        message = refused(**{**flags, "model": "resnet50"})
    assert "--weights=imagenet: the weights of --model=resnet50 could not be fetched" in message


@pytest.mark.parametrize(("model", "weights"), [("resnet18", "imagenet"), ("resnet50", "file.pth")])
def test_torch_files_without_torch(
    model: str, weights: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.pth").write_bytes(b"PK")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"--weights={weights} for --model={model} is a file of torchvision"):
        resolved(TrainConfig(model=model, weights=weights))
