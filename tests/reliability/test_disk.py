"""Full and read-only disks: one clear message, and what stood there before is intact."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import keras
import numpy as np
import pytest

import models
from data import load
from data.batches import Batches
from data.cache import keep_decoded
from data.files import write_text
from data.table import Batch, Table
from data.validation import validate
from errors import UserError
from models import weights
from tests.reliability import children
from tests.reliability.children import PREPARED, STEP, Fate
from tests.reliability.conftest import TinyDisk
from tests.reliability.test_kill import config, start_from
from training import best_model, checkpoint, trainer
from training.checkpoint import Progress
from training.curves import plot_curves
from training.resolve import resolved
from training.run import Run
from training.run_files import write_history, write_json

Disk = Callable[[int], TinyDisk]
ROOT = pathlib.Path(__file__).resolve().parents[2]

ROW = {"epoch": 1, "phase": "all", "learning_rate": 1e-3, "seconds": 1.0, "loss": 0.5, "val_loss": 0.4}


@pytest.fixture(scope="module")
def fitted() -> keras.Model:
    model = models.build("lenet5", 2, image_size=32)
    model.compile(loss="mse")
    model.fit(np.zeros((2, 32, 32, 1)), np.zeros((2, 1)), verbose=0)
    return model


def writers(place: str, model: keras.Model) -> dict[str, Callable[[int], None]]:
    """Everything that a training writes; the argument makes the content differ."""
    return {
        "config.json": lambda n: write_json(f"{place}/config.json", {"a": n, "b": "x" * 50_000}),
        "labels.txt": lambda n: write_text(f"{place}/labels.txt", f"{n}\n" * 50_000),
        "history.csv": lambda n: write_history(place, [{**ROW, "epoch": n}] * 1000),
        "curves.png": lambda n: plot_curves([{**ROW, "epoch": i} for i in range(n + 1)], f"{place}/curves.png"),
        "model.keras": lambda n: best_model.keep(place, model, float(n)),
        "checkpoint": lambda n: checkpoint.save(place, Progress(epoch=n), model, model),
    }


@pytest.mark.parametrize("name", writers("", None))  # type: ignore[arg-type]
@pytest.mark.parametrize("leave", [0, 20_000])
def test_a_full_disk_leaves_the_previous_file(tiny_disk: Disk, fitted: keras.Model, name: str, leave: int) -> None:
    disk = tiny_disk(4000)
    write = writers(str(disk.path), fitted)[name]
    write(1)
    before = {str(path): path.read_bytes() for path in disk.path.rglob("*") if path.is_file()}
    disk.fill(leave)
    with pytest.raises(UserError, match="can't be written: the disk is full. What was there before is unchanged"):
        write(2)
    disk.drain()
    assert {str(path): path.read_bytes() for path in disk.path.rglob("*") if path.is_file()} == before
    write(2)


@pytest.mark.parametrize("name", writers("", None))  # type: ignore[arg-type]
def test_a_read_only_disk(tiny_disk: Disk, fitted: keras.Model, name: str) -> None:
    disk = tiny_disk(4000)
    write = writers(str(disk.path), fitted)[name]
    write(1)
    disk.make_read_only()
    with pytest.raises(UserError, match="can't be written: the file system is read-only"):
        write(2)


def test_a_training_goes_on_after_its_disk_was_full(
    tiny_disk: Disk, images: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """With the bits of a training that always had room."""
    wanted = config(images, "roomy", model="lenet5")
    code, log = children.train(wanted)
    assert code == 0, log
    disk = tiny_disk(4000)
    place = str(disk.path / "run")
    fill = f"""
from tests import witness
def fill(step):
    if step == 5:
        with open({str(disk.path / "filler")!r}, "wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)): pass
            except OSError:
                pass
witness.insert(witness.AtSteps(fill))
"""
    code, log = children.train(dataclasses.replace(wanted, run_dir=place), Fate(code=fill))
    assert code == 2 and "Traceback" not in log, log
    assert "state.npz can't be written: the disk is full" in log and "continues with --resume" in log
    kept = best_model.kept(place).loss
    assert kept == pytest.approx(float(Run.open(place).history()[0]["val_loss"]), abs=1e-6)
    weights.load_trained(os.path.join(place, "model.keras"))
    disk.drain()
    code, log = children.train(dataclasses.replace(Run.open(place).config, resume=True))
    assert code == 0, log
    expected = children.weights(wanted.run_dir or "")
    for name, value in children.weights(place).items():
        np.testing.assert_array_equal(value, expected[name], strict=True)


@pytest.mark.parametrize("full", [True, False])
def test_a_run_folder_that_cannot_be_written_leaves_nothing(tiny_disk: Disk, images: pathlib.Path, full: bool) -> None:
    disk = tiny_disk(100)
    if full:
        disk.fill()
    else:
        disk.make_read_only()
    wanted = dataclasses.replace(config(images, "x", model="lenet5"), run_dir=str(disk.path / "run"))
    log = pathlib.Path(f"{images.parent / 'refused'}")
    code, text = children.train(wanted, log=log)
    assert code == 2 and "Traceback" not in text, text
    assert "can't be written: the " in text
    assert not (disk.path / "run").exists()


@pytest.mark.parametrize(
    "command",
    [
        "evaluate.py",
        "export.py",
        pytest.param("export.py --format=tflite", marks=pytest.mark.slow),
        pytest.param("export.py --format=onnx", marks=pytest.mark.slow),
    ],
)
def test_a_report_or_an_export_on_a_full_disk(
    tiny_disk: Disk, images: pathlib.Path, tmp_path: pathlib.Path, command: str
) -> None:
    wanted = dataclasses.replace(config(images, "", model="lenet5", epochs=1), run_dir=str(tmp_path / "run"))
    code, log = children.train(wanted)
    assert code == 0, log
    disk = tiny_disk(4000)
    place = shutil.copytree(tmp_path / "run", disk.path / "run")
    disk.fill(8192)
    done = subprocess.run(
        [sys.executable, *command.split(), f"--run={place}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "can't be written: the disk is full" in done.stderr
    names = {path.name for path in place.rglob("*")}
    assert not {name for name in names if name.startswith(".part-")} | (names & {"index.html", "saved_model.pb"})


def test_a_full_cache_is_said_before_anything_is_decoded(
    tiny_disk: Disk, images: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tiny_disk(100)
    batches = Batches(validate(load(str(images))), image_size=64)
    monkeypatch.setenv("XDG_CACHE_HOME", str(disk.path))
    with pytest.raises(UserError, match="the disk is full.*point XDG_CACHE_HOME to another folder"):
        keep_decoded(batches, "disk", lambda: pytest.fail("decoded"))
    assert not [path for path in disk.path.rglob("*") if path.is_file()]


# A program that empties caches, or an administrator, at the worst moments.
_CACHE_GONE = """
import os, shutil, subprocess
from tests.reliability import children
cache = os.environ["XDG_CACHE_HOME"]
def act(number):
    if number == 2:
        {act}
children.before_each({where!r}, act)
"""
_REMOVE = "shutil.rmtree(os.path.join(cache, 'darkroom'))"
_MAKE_READ_ONLY = "subprocess.run(['mount', '-o', 'remount,ro', cache], check=True)"


@pytest.mark.parametrize(
    ("act", "where", "expected_code"),
    [
        # Half-made features can't be kept.
        pytest.param(_REMOVE, PREPARED, 2, id="removed while it is filled"),
        # Finished ones are open; those for the test are made in a new folder.
        pytest.param(_REMOVE, STEP, 0, id="removed later", marks=pytest.mark.slow),
        pytest.param(_MAKE_READ_ONLY, STEP, 2, id="read-only", marks=pytest.mark.slow),
    ],
)
def test_a_cache_that_goes_away(
    tiny_disk: Disk,
    images: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    act: str,
    where: str,
    expected_code: int,
) -> None:
    """The run ends with the bits of an undisturbed one, if need be after a message and with another cache."""
    given = {"model": "lenet5", "epochs": 2, "weights": start_from(images)["weights"], "freeze": True}
    wanted = dataclasses.replace(config(images, "", **given), run_dir=str(tmp_path / "whole"))
    code, log = children.train(wanted)
    assert code == 0, log
    monkeypatch.setenv("XDG_CACHE_HOME", str(tiny_disk(4000).path))
    disturbed = dataclasses.replace(wanted, run_dir=f"{wanted.run_dir}-disturbed")
    code, log = children.train(disturbed, Fate(code=_CACHE_GONE.format(act=act, where=where)))
    assert code == expected_code and "Traceback" not in log, log
    if code:
        assert "point XDG_CACHE_HOME to another folder" in log, log
        monkeypatch.setenv("XDG_CACHE_HOME", str(tiny_disk(4000).path))
        code, log = children.train(dataclasses.replace(Run.open(disturbed.run_dir or "").config, resume=True))
        assert code == 0, log
    expected = children.weights(wanted.run_dir or "")
    for name, value in children.weights(disturbed.run_dir or "").items():
        np.testing.assert_array_equal(value, expected[name], strict=True)


def test_unfinished_tables_make_room_for_others(tiny_disk: Disk) -> None:
    """Nobody fills the first any more; the second is being filled, and stays."""
    disk = tiny_disk(700)

    def table(name: str, rows: int) -> Table:
        return Table(str(disk.path / name), [((1024,), np.dtype(np.uint8))], rows)

    def ones(count: int, then: Callable[[], object] = lambda: None) -> Callable[[int], Iterator[Batch]]:
        def batches_from(safe: int) -> Iterator[Batch]:
            yield 0, [np.ones((count, 1024), np.uint8)]
            then()

        return batches_from

    def others() -> None:
        with pytest.raises(UserError, match="the disk is full"):
            table("third", 600).fill(ones(600), 0.0)
        assert sorted(os.listdir(disk.path)) == ["second"]
        table("third", 250).fill(ones(250), 0.0)

    with pytest.raises(ZeroDivisionError):
        table("first", 250).fill(ones(10, lambda: 1 / 0), 0.0)
    table("second", 250).fill(ones(250, others), 0.0)
    assert sorted(os.listdir(disk.path)) == ["second", "third"]


@pytest.mark.parametrize("how", ["deleted", "cut off", "emptied"])
def test_an_image_that_changes_while_it_is_needed(image_folder: pathlib.Path, how: str) -> None:
    """After the scan, which comes before config.json, and with nothing cached, so that each epoch reads it again."""
    wanted = config(image_folder, "changing", model="lenet5", cache="none", deterministic=False, epochs=10_000)
    record = pathlib.Path(wanted.run_dir or "", "config.json")

    def change() -> None:
        while not record.exists():
            time.sleep(0.01)
        for image in image_folder.rglob("*.jpg"):
            content = image.read_bytes()
            image.unlink() if how == "deleted" else image.write_bytes(content[:400] if how == "cut off" else b"")

    changing = threading.Thread(target=change, daemon=True)
    changing.start()
    with pytest.raises(UserError, match="must stay as they are while a training reads them. Received: .*--resume"):
        trainer.train(resolved(wanted), command="")
    changing.join()
