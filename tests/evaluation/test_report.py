from __future__ import annotations

import csv
import dataclasses
import json
import os
import pathlib
import shutil
import time

import keras
import numpy as np
import pytest

import models
from data.dataset import Dataset, as_records
from data.image_header import Header
from errors import UserError
from evaluation import metrics, report
from evaluation.assessment import Assessment, assess
from evaluation.predictions import Predictions, from_model
from evaluation.subject import Subject, own_test_split, subject_in
from tests.conftest import encode
from tests.evaluation.pages_read import Page, differing, sizes
from training.heads import heads_of
from training.run import Run, Split
from training.run_files import write_history, write_json, write_splits


@pytest.fixture(scope="module")
def folder(assessment: Assessment, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The report of the shared run."""
    folder = tmp_path_factory.mktemp("report")
    report.write(assessment, assessment.subject.run.load_model(), str(folder))
    return folder


@pytest.fixture(scope="module")
def page(folder: pathlib.Path) -> Page:
    return Page((folder / "index.html").read_text())


def test_every_number_on_the_page_is_that_of_the_json_file(page: Page, folder: pathlib.Path) -> None:
    assert len(page.numbers) > 40
    assert differing(page.numbers, folder / "metrics.json") == []


def test_the_reader_of_pages_notices_a_wrong_number(folder: pathlib.Path) -> None:
    accuracy = json.loads((folder / "metrics.json").read_text())["accuracy"]
    assert differing([("/accuracy", "percent", f"{100 * accuracy + 0.1:.1f} %")], folder / "metrics.json") != []


def test_the_page_needs_nothing_but_itself(page: Page, folder: pathlib.Path) -> None:
    assert page.fetched == []
    html = (folder / "index.html").read_text()
    assert "url(" not in html.replace("url(#", "") and "@import" not in html and "<script" not in html
    assert all(min(size) > 20 for size in sizes(page.images))


def test_every_section_is_there(page: Page, assessment: Assessment) -> None:
    for title in (
        "Confusion matrix",
        "ROC curve",
        "Precision-recall curve",
        "Calibration",
        "Loss: lower",
        "Image sizes",
    ):
        assert title in page.text, title
    for title in ("Grad-CAM", "Augmentation", "Configuration"):
        assert title in page.text, title
    errors = int((~assessment.predictions.correct).sum())
    explained = 2 * (6 + min(errors, 6))
    assert len(page.images) == min(errors, 24) + explained + 9 + 2 * len(assessment.copies[:8])


def test_the_numbers_are_the_test_metrics_that_training_wrote(assessment: Assessment, run: Run) -> None:
    assert assessment.numbers["accuracy"] == pytest.approx(run.test_metrics()["accuracy"], abs=1e-6)
    assert assessment.numbers["log_loss"] == pytest.approx(run.test_metrics()["loss"], abs=1e-4)
    assert assessment.numbers["images"] == 24


def test_each_wrong_image_has_a_row_to_note_its_cause(assessment: Assessment, folder: pathlib.Path) -> None:
    rows = list(csv.DictReader((folder / "errors.csv").read_text().splitlines()))
    wrong = np.flatnonzero(~assessment.predictions.correct)
    assert {row["address"] for row in rows} == {assessment.subject.split.addresses[i] for i in wrong}
    assert all(row["label"] != row["prediction"] and row["cause"] == "" for row in rows)
    confidences = [float(row["confidence"]) for row in rows]
    assert confidences == sorted(confidences, reverse=True)


def test_other_images_are_matched_by_the_name_of_their_class(run: Run, tmp_path: pathlib.Path) -> None:
    from tests.evaluation.conftest import write_images

    write_images(tmp_path / "new", 3, first=500)
    (tmp_path / "new" / "across").mkdir()
    (tmp_path / "new" / "across" / "0.png").write_bytes(encode(np.zeros((9, 9, 3), np.uint8), "PNG"))
    (tmp_path / "new" / "upright" / "broken.png").write_bytes(b"\x89PNG nothing more")
    subject = subject_in(run, str(tmp_path / "new"), None, "model.keras")
    assert subject.split.labels.tolist() == [0] * 3 + [1] * 3
    assert not subject.is_own
    unknown, broken = subject.notes
    assert unknown.startswith("Left out 1 of 8 images: ") and "across" in unknown
    assert "upright/broken.png" in broken


def test_images_of_unknown_classes_only_are_refused(run: Run, image_folder: pathlib.Path) -> None:
    for name in ("lying", "upright"):
        (image_folder / name).rename(image_folder / name[:2])
    with pytest.raises(UserError, match="must have a class of the run: lying, upright.*Received: .* with ly, up"):
        subject_in(run, str(image_folder), None, "model.keras")


def test_the_model_card_says_what_a_stranger_must_know(assessment: Assessment) -> None:
    text = report.card(assessment)
    accuracy = f"{100 * assessment.numbers['accuracy']:.1f} %"
    losses = [float(row["val_loss"]) for row in assessment.subject.run.history()]
    kept = f"Kept: epoch {1 + losses.index(min(losses))} of 6, which has the lowest validation loss, {min(losses):.3f}."
    for needed in ("lying, upright", accuracy, "python train.py", "LeCun", "training: 40", "16 x 16 px", kept):
        assert needed in text, needed
    assert "Learning rate 0.003, constant (Adam)." in text
    assert "\n\n\n" not in text


def test_the_model_card_names_schedule_and_both_learning_rates(assessment: Assessment) -> None:
    run = assessment.subject.run
    given = {"freeze": True, "fine_tune_epochs": 2, "fine_tune_learning_rate": 2e-5, "learning_rate_schedule": "cosine"}
    tuned = dataclasses.replace(run, config=dataclasses.replace(run.config, **given))
    subject = dataclasses.replace(assessment.subject, run=tuned)
    text = report.card(dataclasses.replace(assessment, subject=subject))
    assert "Learning rate 0.003, for the fine-tuning 2e-05, falling to 0 along half a cosine (Adam)." in text


def test_the_model_card_holds_the_commands_by_which_a_run_was_trained_on(
    assessment: Assessment, tmp_path: pathlib.Path
) -> None:
    shutil.copytree(assessment.subject.run.path, tmp_path / "run")
    run = Run.open(str(tmp_path / "run"))
    details = run.details() | {"continued_by": ["python train.py --resume --epochs=9"]}
    (tmp_path / "run" / "config.json").write_text(json.dumps(details))
    text = report.card(dataclasses.replace(assessment, subject=dataclasses.replace(assessment.subject, run=run)))
    assert "\n    python train.py --model=lenet5\n    python train.py --resume --epochs=9\n\n" in text


def test_the_page_names_the_kept_epoch_and_marks_it(page: Page, assessment: Assessment) -> None:
    losses = [float(row["val_loss"]) for row in assessment.subject.run.history()]
    epoch = 1 + losses.index(min(losses))
    assert f"kept epoch{epoch}, which has the lowest validation loss" in page.text
    assert f"kept: epoch {epoch}" in page.text


def many_images(folder: pathlib.Path, classes: int, images: int) -> Assessment:
    """An assessment of random answers about copies of one image, with class names that are hard to print."""
    names = tuple(f"{i:03d} <b>&$x$ 猫 {'long' * 8}" for i in range(classes))
    labels = np.arange(images) % classes
    addresses = tuple(f"{label}/{i}.png" for i, label in enumerate(labels))
    image = encode(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8), "JPEG")
    dataset = Dataset("many", addresses, as_records([image] * images), labels, names, False)
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in names))
    write_splits(str(folder), dataclasses.replace(dataset, digests=("",) * images), ["test"] * images)
    write_history(str(folder), [{"epoch": i, "phase": "all", "loss": 1 / i, "val_loss": 1 / i} for i in (1, 2)])
    flags = {"model": "lenet5", "data": "many", "image_size": 16, "augment": "basic"}
    details = {"flags": flags, "command": "x", "parameters": 1, "versions": {}, "devices": [], "git_commit": None}
    write_json(str(folder / "config.json"), {**details, "training_seconds": 1.0})
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(images, classes))
    logits[np.arange(images), labels] += 2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    numbers = metrics.classification(labels, probabilities, names)
    numbers |= {"baseline": metrics.baseline(labels, np.ones(classes), names), "brightness": None, "temperature": None}
    numbers |= {"images_of": "many", "network": "model.keras", "calibrated": None, "copies_in_training": 0}
    split = Split(dataset, 16, 1)
    subject = Subject(Run.open(str(folder)), split, "many", "model.keras")
    headers = [Header("JPEG", 400, 300)] * 1000
    return Assessment(
        subject, Predictions(labels, probabilities), {**numbers, "warnings": []}, None, [], split, headers
    )


def test_ten_thousand_images_of_a_hundred_classes_fit_into_ten_megabytes(tmp_path: pathlib.Path) -> None:
    assessment = many_images(tmp_path, 100, 10_000)
    model = models.build("lenet5", 100, image_size=16)
    start = time.process_time()
    path = report.write(assessment, model, str(tmp_path / "report"))
    assert time.process_time() - start < 60
    assert os.path.getsize(path) < 5e6
    page = Page(pathlib.Path(path).read_text())
    assert differing(page.numbers, tmp_path / "report" / "metrics.json") == []
    # Names are text, never markup.
    assert "<b>&$x$ 猫" in page.text


def test_a_run_that_gets_everything_right_shows_no_errors(assessment: Assessment, tmp_path: pathlib.Path) -> None:
    labels = assessment.predictions.labels
    perfect = Predictions(labels, np.eye(2)[labels] * 0.98 + 0.01)
    numbers = {**assessment.numbers, **metrics.classification(labels, perfect.probabilities, ("lying", "upright"))}
    changed = dataclasses.replace(assessment, predictions=perfect, numbers=numbers)
    page = Page(pathlib.Path(report.write(changed, assessment.subject.run.load_model(), str(tmp_path))).read_text())
    assert "Worst errors" not in page.text and "None: every image is classified correctly" in page.text
    assert (tmp_path / "errors.csv").read_text() == "address,label,prediction,confidence,cause\n"


def test_a_dense_network_with_two_heads_has_brightness_and_no_evidence(run: Run, tmp_path: pathlib.Path) -> None:
    keras.utils.set_random_seed(0)
    model = models.build("multitask", 2, image_size=8)
    subject = own_test_split(run, "model.keras")
    split, val, train = (Split(split.dataset, 8, 3) for split in (subject.split, subject.val, subject.train) if split)
    small = dataclasses.replace(subject, split=split, val=val, train=train)
    heads = heads_of("multitask", run.class_names)
    predictions = from_model(model, heads)(small.split, 7, "predicting")
    pixels = next(iter(small.split.pixels(1))).numpy()
    assert predictions.targets["brightness"][0, 0] == pytest.approx(pixels.mean() / 255, abs=1e-6)
    sized = {"image_size": 8, "model": "multitask"}
    other = dataclasses.replace(run, config=dataclasses.replace(run.config, **sized))
    found = assess(dataclasses.replace(small, run=other), from_model(model, heads), 7)
    assert found.numbers["brightness"]["mae"] == pytest.approx(
        np.abs(predictions.answers["brightness"] - predictions.targets["brightness"][:, 0]).mean()
    )
    page = Page(pathlib.Path(report.write(found, model, str(tmp_path))).read_text())
    assert "Brightness: estimate against measurement" in page.text and "Grad-CAM" not in page.text
    assert differing(page.numbers, tmp_path / "metrics.json") == []
