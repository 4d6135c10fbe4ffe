"""What an evaluation does when images of the run are elsewhere, or no more."""

from __future__ import annotations

import pathlib
import shutil

import numpy as np
import pytest

from errors import UserError
from evaluation import assessment, predictions, report
from evaluation import subject as subjects
from tests.conftest import encode
from tests.evaluation.conftest import bar, train_run, write_images
from training.run import Run, Split


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """LeNet-5 on 2 x 20 images of bars, 8 of them for validation and 12 for the test."""
    folder = tmp_path_factory.mktemp("subject")
    write_images(folder / "photos", 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        return train_run(folder / "photos", folder / "run", augment="basic")


@pytest.fixture
def run(trained: Run, tmp_path: pathlib.Path) -> Run:
    """A copy of the run with images of its own, to be moved and deleted; its record still names the former place."""
    shutil.copytree(trained.config.data, tmp_path / "photos")
    return Run.open(shutil.copytree(trained.path, tmp_path / "run"))


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch, trained: Run) -> None:
    """While it lasts, the place that the record names does not exist."""
    place = pathlib.Path(trained.config.data)
    place.rename(place.with_name("elsewhere"))
    yield
    place.with_name("elsewhere").rename(place)


def addresses(run: Run, split: str) -> list[str]:
    return [row.address for row in run.splits() if row.split == split]


def assessed(run: Run, subject: subjects.Subject) -> assessment.Assessment:
    return assessment.assess(subject, predictions.from_model(run.load_model(), run.heads), 8)


def test_images_that_have_moved_are_the_runs_own(trained: Run, run: Run, tmp_path: pathlib.Path, gone: None) -> None:
    found = assessed(run, subjects.subject_in(run, str(tmp_path / "photos"), None, "model.keras"))
    assert found.subject.is_own
    assert found.numbers["images_of"] == f"the run's own test split, found in {tmp_path / 'photos'}"
    assert found.numbers["images"] == 12
    assert found.numbers["accuracy"] == pytest.approx(run.test_metrics()["accuracy"])
    assert len(found.subject.val or ()) == 8 and len(found.train or ()) == 20
    assert not any("images" in warning for warning in found.subject.notes)


def test_more_images_beside_the_moved_ones_do_not_matter(run: Run, tmp_path: pathlib.Path) -> None:
    (tmp_path / "photos" / "upright" / "new.png").write_bytes(encode(bar(77, upright=True), "PNG"))
    (tmp_path / "photos" / "zigzag").mkdir()
    (tmp_path / "photos" / "zigzag" / "0.png").write_bytes(encode(bar(78, upright=True), "PNG"))
    subject = subjects.subject_in(run, str(tmp_path / "photos"), None, "model.keras")
    assert subject.is_own and list(subject.split.addresses) == addresses(run, "test")
    np.testing.assert_array_equal(subject.split.labels, run.split("test").labels)


@pytest.mark.parametrize("how", ["deleted", "changed", "of another class"])
def test_half_of_the_test_split_is_neither(run: Run, tmp_path: pathlib.Path, how: str) -> None:
    image = tmp_path / "photos" / addresses(run, "test")[0]
    if how == "changed":
        image.write_bytes(encode(bar(99, upright=True), "PNG"))
    elif how == "deleted":
        image.unlink()
    else:
        image.rename(image.parents[1] / "upright" / f"was-lying-{image.name}")
    with pytest.raises(UserError, match="must hold the whole test split of .* Received: 11 of its images, unchanged"):
        subjects.subject_in(run, str(tmp_path / "photos"), None, "model.keras")


def test_other_images_with_the_same_addresses_are_other_images(run: Run, tmp_path: pathlib.Path) -> None:
    for i, image in enumerate(sorted((tmp_path / "photos").rglob("*.png"))):
        image.write_bytes(encode(bar(2000 + i, upright=image.parent.name == "upright"), "PNG"))
    subject = subjects.subject_in(run, str(tmp_path / "photos"), None, "model.keras")
    assert not subject.is_own and len(subject.split) == 40


def test_other_images_are_evaluated_without_the_runs_own(run: Run, tmp_path: pathlib.Path, gone: None) -> None:
    write_images(tmp_path / "new", 5, first=700)
    subject = subjects.subject_in(run, str(tmp_path / "new"), None, "model.keras")
    found = assessed(run, subject)
    assert not subject.is_own and found.numbers["images"] == 10
    assert found.numbers["baseline"]["class"] == "lying", "chosen by splits.csv"
    assert (found.numbers["temperature"], found.numbers["copies_in_training"]) == (None, None)
    assert subject.notes == (
        "Calibration was left out: the run's 8 validation images can't be found.",
        "The search for copies was left out: the run's 20 training images can't be found.",
    )
    page = pathlib.Path(report.write(found, run.load_model(), str(tmp_path / "report"))).read_text()
    assert "Not searched for" in page and "validation images can’t be found" in page
    assert "trained without augmentation" not in page


def test_training_images_among_the_others_are_known_by_their_checksum(
    run: Run, tmp_path: pathlib.Path, gone: None
) -> None:
    write_images(tmp_path / "new", 5, first=700)
    for i, address in enumerate(addresses(run, "train")[:3]):
        shutil.copy(tmp_path / "photos" / address, tmp_path / "new" / pathlib.Path(address).parent / f"known{i}.png")
    *_, note = subjects.subject_in(run, str(tmp_path / "new"), None, "model.keras").notes
    assert note.startswith("3 of these 13 images were trained on")


def test_deleted_validation_images_do_not_stop_an_evaluation(run: Run, tmp_path: pathlib.Path) -> None:
    for address in addresses(run, "val")[:2]:
        (tmp_path / "photos" / address).unlink()
    subject = subjects.subject_in(run, str(tmp_path / "photos"), None, "model.keras")
    assert subject.is_own
    assert subject.notes == ("Calibration used the 6 validation images that are left; 2 are missing.",)
    assert assessed(run, subject).numbers["images"] == 12


def test_deleted_training_images_do_not_either(run: Run, tmp_path: pathlib.Path) -> None:
    for split in ("train", "val"):
        for address in addresses(run, split):
            (tmp_path / "photos" / address).unlink()
    found = assessed(run, subjects.subject_in(run, str(tmp_path / "photos"), None, "model.keras"))
    assert found.subject.is_own and len(found.subject.notes) == 2
    assert found.numbers["accuracy"] == pytest.approx(run.test_metrics()["accuracy"])


def test_what_cannot_be_evaluated_is_said_before_anything_is_predicted(
    run: Run, tmp_path: pathlib.Path, gone: None
) -> None:
    """The subject is complete before `assess` predicts, so a failure comes from here."""
    with pytest.raises(UserError, match="doesn't exist"):
        subjects.own_test_split(run, "model.keras")
    assert isinstance(subjects.subject_in(run, str(tmp_path / "photos"), None, "model.keras").val, Split)
