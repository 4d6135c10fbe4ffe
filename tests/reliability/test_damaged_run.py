"""A run folder that was damaged or edited: each program names the file, and none answers from it."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable

import keras
import numpy as np
import pytest

import models
from errors import UserError
from evaluation import assessment, compare, predictions, subject
from serving import export
from tests.evaluation.conftest import train_run, write_images
from training import best_model, trainer
from training.run import Run

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of two epochs on 40 images."""
    folder = tmp_path_factory.mktemp("damaged")
    write_images(folder / "photos", 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        return train_run(folder / "photos", folder / "run", epochs=2)


@pytest.fixture
def copy(run: Run, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the run to damage."""
    return pathlib.Path(shutil.copytree(run.path, tmp_path / "copy"))


def resume(path: str) -> None:
    """What `train.py --resume --run_dir=PATH` does, for a run that has not had its test yet."""
    config = dataclasses.replace(Run.open(path).config, resume=True, run_dir=path)
    trainer.train(config, command="")


def evaluate(path: str) -> None:
    opened = Run.open(path)
    predictor = predictions.from_model(opened.load_model(), opened.heads)
    assessment.assess(subject.own_test_split(opened, "model.keras"), predictor, 8)


def compare_twice(path: str) -> None:
    compare.compare([Run.open(path), Run.open(path)], 8)


def predict(path: str) -> None:
    opened = Run.open(path)
    answer = predictions.answering(opened.load_model(), opened.heads)
    image = next(pathlib.Path(opened.config.data).rglob("*.png"))
    list(predictions.of_files([str(image)], answer, image_size=16, channels=3, batch_size=1))


def publish(path: str) -> None:
    export.export_run(Run.open(path))


PROGRAMS = (resume, evaluate, compare_twice, predict, publish)


def edited(change: Callable[[dict], object]) -> Callable[[bytes], bytes]:
    """A damage of JSON: what `change` gives, or the object that it has changed."""

    def damage(content: bytes) -> bytes:
        value = json.loads(content)
        result = change(value)
        return json.dumps(value if result is None else result).encode()

    return damage


def flag(**values: object) -> Callable[[bytes], bytes]:
    return edited(lambda record: record["flags"].update(values))


def rows(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[bytes], bytes]:
    return lambda content: b"\n".join([*change(content.splitlines()), b""])


def binary(content: bytes) -> bytes:
    return np.random.default_rng(0).bytes(len(content))


def of_three_classes(content: bytes) -> bytes:
    """The model of a run with three classes."""
    return _kept(3, {"labels.txt": "a\nb\nc\n", "splits.csv": "x"})


def of_other_classes(content: bytes) -> bytes:
    """The model of a run with two other classes, whose network is the same."""
    return _kept(2, {"labels.txt": "cat\ndog\n", "splits.csv": "x"})


def _kept(num_classes: int, checksums: dict[str, str]) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "config.json").write_text(json.dumps({"sha256": checksums}))
        best_model.keep(folder, models.build("lenet5", num_classes, image_size=16), 0.1)
        return pathlib.Path(folder, "model.keras").read_bytes()


def with_a_flipped_bit(content: bytes) -> bytes:
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGES: dict[str, dict[str, Callable[[bytes], bytes | None]]] = {
    "config.json": {
        "empty": lambda content: b"",
        "cut": lambda content: content[: len(content) // 2],
        "a list": lambda content: b"[1, 2]",
        "binary": binary,
        "without flags": edited(lambda record: record.pop("flags") and None),
        "flags a list": edited(lambda record: record.update(flags=[1])),
        "a text as image size": flag(image_size="16"),
        "a negative image size": flag(image_size=-16),
        "another image size": flag(image_size=17),
        "null as model": flag(model=None),
        "an unknown model": flag(model="resnet5"),
        "a number as data": flag(data=3),
        "a text as boolean": flag(freeze="no"),
        "devices a text": edited(lambda record: record.update(devices="CPU")),
        "without checksums": edited(lambda record: record.pop("sha256") and None),
        "of a later schema": edited(lambda record: record.update(schema=2)),
        "a schema in words": edited(lambda record: record.update(schema="one")),
        "deeply nested": lambda content: b"[" * 100_000,
    },
    "splits.csv": {
        "empty": lambda content: b"",
        "cut in a row": lambda content: content[:-30],
        "cut in a row, its end put back": lambda content: content[:-80] + b"\n",
        "without header": rows(lambda lines: lines[1:]),
        "binary": binary,
        "an unknown split": rows(lambda lines: [*lines[:3], lines[3].replace(b",t", b",r"), *lines[4:]]),
        "an unknown class": lambda content: content.replace(b",lying,", b",standing,", 1),
        "a row less": rows(lambda lines: lines[:-1]),
        "a row in another split": lambda content: content.replace(b",test,", b",train,", 1),
        "absent": lambda content: None,
    },
    "history.csv": {
        "empty": lambda content: b"",
        "text": lambda content: b"hello, world\nall is well\n",
        "a word as a number": rows(lambda lines: [*lines[:-1], re.sub(rb"[0-9.]+$", b"good", lines[-1])]),
        "cut in a row": lambda content: content[:-5],
        "header only": rows(lambda lines: lines[:1]),
        "binary": binary,
    },
    "labels.txt": {
        "empty": lambda content: b"",
        "lines swapped": rows(lambda lines: lines[::-1]),
        "replaced": lambda content: b"cat\ndog\n",
        "one line short": rows(lambda lines: lines[1:]),
        "one line more": rows(lambda lines: [*lines, b"zebra"]),
        "binary": binary,
        "absent": lambda content: None,
    },
    "test.json": {
        "empty": lambda content: b"",
        "cut": lambda content: content[:-10],
        "a list": lambda content: b"[]",
        "a text as a number": edited(lambda metrics: metrics.update(accuracy="high")),
        "binary": binary,
    },
    "model.keras": {
        "empty": lambda content: b"",
        "cut": lambda content: content[: len(content) // 2],
        "binary": binary,
        "a flipped bit": with_a_flipped_bit,
        "of a run with three classes": of_three_classes,
        "of a run with two other classes": of_other_classes,
        "absent": lambda content: None,
    },
}
CASES = [(name, kind) for name, kinds in DAMAGES.items() for kind in kinds]


def damage(folder: pathlib.Path, name: str, kind: str) -> None:
    path = folder / name
    content = DAMAGES[name][kind](path.read_bytes())
    path.unlink()
    if content is not None:
        path.write_bytes(content)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_program_names_the_damaged_file(copy: pathlib.Path, name: str, kind: str) -> None:
    damage(copy, name, kind)
    if name != "test.json":
        # Else the resume would only say that the run has finished.
        (copy / "test.json").unlink()
    # A model that doesn't fit the flags is found by comparing both; neither says which of them was changed.
    named = "model.keras" if kind == "another image size" else name
    before = sorted(copy.rglob("*"))
    for program in PROGRAMS if kind != "another image size" else PROGRAMS[1:]:
        with pytest.raises(UserError) as caught:
            program(str(copy))
        message = str(caught.value)
        assert named in message and "\n" not in message and len(message) < 600, (program, message)
    assert {path for path in copy.rglob("*") if path.name not in (".lock", "checkpoint")} <= set(before)


@pytest.mark.parametrize("kind", ["lines swapped", "replaced", "one line short"])
def test_a_changed_class_list_is_never_answered_from_in_a_run_of_an_older_version(
    copy: pathlib.Path, kind: str
) -> None:
    as_an_older_version_wrote_it(copy)
    Run.open(str(copy)).load_model()
    damage(copy, "labels.txt", kind)
    for program in (evaluate, predict, publish):
        with pytest.raises(UserError, match=r"labels\.txt must be as train\.py has written it"):
            program(str(copy))


def as_an_older_version_wrote_it(folder: pathlib.Path) -> None:
    """Without schema, checksums and the content of the images, and with another name for the column of the splits."""
    record = json.loads((folder / "config.json").read_text())
    del record["schema"], record["sha256"]
    (folder / "config.json").write_text(json.dumps(record))
    lines = (folder / "splits.csv").read_text().replace(",split,", ",part,").splitlines()
    (folder / "splits.csv").write_text("".join(line.rpartition(",")[0] + "\n" for line in lines))
    with zipfile.ZipFile(folder / "model.keras", "a") as archive:
        archive.comment = json.dumps({"val_loss": 0.5}).encode()


def test_a_run_of_an_older_version_is_read(copy: pathlib.Path, run: Run) -> None:
    as_an_older_version_wrote_it(copy)
    older = Run.open(str(copy))
    assert older.class_names == run.class_names and older.config == run.config
    assert [(row.address, row.split) for row in older.splits()] == [(row.address, row.split) for row in run.splits()]
    evaluate(str(copy))


def test_the_whole_folder_moved_elsewhere_is_read(copy: pathlib.Path, run: Run) -> None:
    moved = Run.open(str(copy))
    assert (moved.history(), moved.test_metrics()) == (run.history(), run.test_metrics())
    first, second = moved.load_model(), run.load_model()
    for a, b in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b))


SCRIPTS = {
    "labels.txt": ("lines swapped", [("predict.py", "--run={run}", "{photos}"), ("export.py", "--run={run}")]),
    "config.json": ("a text as image size", [("train.py", "--resume", "--run_dir={run}")]),
    "splits.csv": ("binary", [("evaluate.py", "--run={run}"), ("evaluate.py", "--compare", "{run}", "{run}")]),
}


@pytest.mark.parametrize(
    ("name", "kind", "command"),
    [
        pytest.param(name, kind, command, marks=pytest.mark.slow if number else [])
        for name, (kind, commands) in SCRIPTS.items()
        for number, command in enumerate(commands)
    ],
)
def test_the_real_scripts_end_with_a_sentence(
    copy: pathlib.Path, run: Run, name: str, kind: str, command: tuple[str, ...]
) -> None:
    damage(copy, name, kind)
    arguments = [part.format(run=copy, photos=run.config.data) for part in command]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert str(copy / name) in done.stderr
    assert not any(label in done.stdout for label in run.class_names)
    assert not os.path.exists(copy / "export")
