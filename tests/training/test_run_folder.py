from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import keras
import pytest
import tensorflow as tf

from data.decode import decode
from errors import UserError
from tests.data import encoded
from tests.training.test_trainer import config
from training import checkpoint, examples, run_folder
from training.config import TrainConfig
from training.examples import Examples
from training.run import Run


class Model:
    """What a run's record asks of a model."""

    def count_params(self) -> int:
        return 7


@pytest.fixture
def gathered(image_folder: pathlib.Path) -> Examples:
    return examples.gather(config(image_folder))


def start(image_folder: pathlib.Path, gathered: Examples, run_dir: pathlib.Path, model: Any = None) -> Any:
    wanted = config(image_folder, run_dir=str(run_dir))
    return run_folder.opened(wanted, gathered, model or Model(), "python train.py", ["CPU"])


def reopen(resumed: TrainConfig, gathered: Examples, command: str = "") -> Any:
    return run_folder.opened(resumed, gathered, Model(), command, ["CPU"])


def test_a_new_run_says_what_it_is(image_folder: pathlib.Path, gathered: Examples, tmp_path: pathlib.Path) -> None:
    with start(image_folder, gathered, tmp_path / "deep" / "run") as run:
        pass
    assert run.class_names == ("lying", "upright")
    assert len(run.splits()) == 40
    details = run.details()
    assert details["command"] == "python train.py" and details["parameters"] == 7 and details["devices"] == ["CPU"]
    assert set(details["versions"]) >= {"python", "tensorflow", "keras", "numpy"}


def test_a_folder_with_other_things_is_not_written_into(
    image_folder: pathlib.Path, gathered: Examples, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "thesis.txt").write_text("all my work")
    with pytest.raises(UserError, match="must be a new or an empty folder. .*thesis.txt"):
        with start(image_folder, gathered, tmp_path):
            pass
    assert (tmp_path / "thesis.txt").read_text() == "all my work"
    assert "config.json" not in os.listdir(tmp_path)


@pytest.mark.parametrize("left", [[], [".lock"], [".lock", "splits.csv"], [".lock", "splits.csv", "labels.txt"]])
def test_what_a_killed_start_left_is_no_obstacle(
    image_folder: pathlib.Path, gathered: Examples, tmp_path: pathlib.Path, left: list[str]
) -> None:
    (tmp_path / "run").mkdir()
    for name in left:
        (tmp_path / "run" / name).write_text("half")
    with start(image_folder, gathered, tmp_path / "run") as run:
        place = run.path
        assert len(Run.open(place).splits()) == 40


@pytest.mark.parametrize("is_new", [True, False])
def test_a_failed_start_leaves_no_half_made_run(
    image_folder: pathlib.Path,
    gathered: Examples,
    tmp_path: pathlib.Path,
    is_new: bool,
) -> None:
    """Whatever fails; `tests/reliability/test_disk.py` fills a real disk."""
    place = tmp_path / "run"
    if not is_new:
        place.mkdir()

    class Unknown(Model):
        def count_params(self) -> int:
            raise UserError("not built yet")

    with pytest.raises(UserError, match="not built yet"), start(image_folder, gathered, place, Unknown()):
        pass
    assert place.exists() != is_new
    assert is_new or os.listdir(place) == []


def test_two_processes_cannot_share_a_folder(
    image_folder: pathlib.Path, gathered: Examples, tmp_path: pathlib.Path
) -> None:
    """Locks of two open files exclude each other as those of two processes do."""
    with start(image_folder, gathered, tmp_path / "run") as run:
        place = run.path
        resumed = dataclasses.replace(Run.open(place).config, resume=True)
        with pytest.raises(UserError, match="Another process is training in --run_dir"):
            with reopen(resumed, gathered):
                pass
    with reopen(resumed, gathered) as again:
        assert again.path == place


def changed(gathered: Examples, how: str) -> Examples:
    dataset = gathered.dataset
    if how == "an image more":
        indices = [*range(len(dataset)), 0]
        taken = dataset.take(indices)  # type: ignore[arg-type]
        return dataclasses.replace(gathered, dataset=taken, splits=gathered.splits[indices])
    if how == "another content":
        digests = ("0" * 64, *dataset.digests[1:])
        return dataclasses.replace(gathered, dataset=dataclasses.replace(dataset, digests=digests))
    if how == "another split":
        splits = gathered.splits.copy()
        splits[0] = "unused"
        return dataclasses.replace(gathered, splits=splits)
    return dataclasses.replace(gathered, dataset=dataclasses.replace(dataset, labels=1 - dataset.labels))


@pytest.mark.parametrize("how", ["an image more", "another split", "other labels", "another content"])
def test_a_resume_needs_the_same_images(
    image_folder: pathlib.Path, gathered: Examples, tmp_path: pathlib.Path, how: str
) -> None:
    with start(image_folder, gathered, tmp_path / "run") as run:
        place = run.path
        resumed = dataclasses.replace(Run.open(place).config, resume=True)
    with pytest.raises(UserError, match="needs the images that .* was started with"):
        with reopen(resumed, changed(gathered, how)):
            pass


def test_a_finished_run_cannot_be_resumed(
    image_folder: pathlib.Path, gathered: Examples, tmp_path: pathlib.Path
) -> None:
    """Unless it shall train on, which takes its checkpoint."""
    with start(image_folder, gathered, tmp_path / "run") as run:
        place = run.path
        resumed = dataclasses.replace(Run.open(place).config, resume=True)
    test = pathlib.Path(place, "test.json")
    test.write_text('{"accuracy": 1.0}')
    with pytest.raises(UserError, match="has finished; there is nothing to resume. Pass --epochs above 2"):
        with reopen(resumed, gathered):
            pass
    longer = dataclasses.replace(resumed, epochs=5)
    with pytest.raises(UserError, match="needs its checkpoint.*--weights=.*model.keras"):
        with reopen(longer, gathered):
            pass
    assert test.exists()
    _write_progress(place, phase=0)
    with reopen(longer, gathered, "python train.py --resume --epochs=5"):
        assert Run.open(place).config.epochs == 5
        assert Run.open(place).details()["continued_by"] == ["python train.py --resume --epochs=5"]
        assert not test.exists()


def test_the_head_gets_no_more_epochs_once_fine_tuning_has_begun(
    image_folder: pathlib.Path, gathered: Examples, tmp_path: pathlib.Path
) -> None:
    with start(image_folder, gathered, tmp_path / "run") as run:
        place = run.path
        longer = dataclasses.replace(Run.open(place).config, resume=True, epochs=5)
    _write_progress(place, phase=1)
    with pytest.raises(UserError, match="the fine-tuning, which has begun. Received: --epochs=5.*--fine_tune_epochs"):
        with reopen(longer, gathered):
            pass
    assert Run.open(place).config.epochs == 2


def _write_progress(place: str, phase: int) -> None:
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    checkpoint.save(place, checkpoint.Progress(phase=phase, epoch=2), network, None)


@pytest.mark.parametrize("kept", [0.0, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("form", ["jpeg", "png", "gif", "bmp"])
def test_an_image_that_was_cut_off_after_the_scan_is_said(form: str, kept: float) -> None:
    """In the words of the graph in which training decodes, whatever the decoder complains of."""
    whole = getattr(encoded, form)()
    images = tf.data.Dataset.from_tensors(whole[: int(kept * len(whole))]).map(lambda image: decode(image, 32))
    message = r"The images in --data=cats must stay as they are.*one that can no longer be decoded"
    with pytest.raises(UserError, match=message), examples.unchanged(TrainConfig(data="cats")):
        list(images)
