from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest

from data.files import write_text
from errors import UserError
from evaluation import compare
from evaluation.assessment import Assessment
from tests.conftest import encode
from tests.evaluation.conftest import train_run
from tests.evaluation.pages_read import Page, differing
from training.run import Run


@pytest.fixture(scope="module")
def untrained(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on the same images that has learned next to nothing."""
    folder = tmp_path_factory.mktemp("other")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        return train_run(pathlib.Path(run.config.data), folder / "untrained", epochs=1, learning_rate=1e-9)


def test_runs_on_the_same_test_images(run: Run, untrained: Run, assessment: Assessment, tmp_path: pathlib.Path) -> None:
    comparison = compare.compare([run, untrained], batch_size=10)
    first, second = comparison["runs"]
    assert (first["name"], second["name"], comparison["images"]) == ("bars", "untrained", 24)
    assert first["accuracy"] == assessment.numbers["accuracy"]
    assert first["parameters"] == run.details()["parameters"]
    assert first["training_seconds"] == run.details()["training_seconds"]
    assert 0 < first["latency_ms"] < 5000
    (pair,) = comparison["pairs"]
    difference = (pair["only_first"] - pair["only_second"]) / 24
    assert difference == pytest.approx(first["accuracy"] - second["accuracy"])
    text = compare.text(comparison)
    assert "bars / untrained" in text and "p (McNemar)" in text
    page = Page(pathlib.Path(compare.write(comparison, str(tmp_path / "report"))).read_text())
    assert page.fetched == [] and differing(page.numbers, tmp_path / "report" / "comparison.json") == []


def copied(run: Run, folder: pathlib.Path) -> Run:
    shutil.copytree(run.path, folder)
    return Run.open(str(folder))


def test_a_single_run_is_not_a_comparison(run: Run) -> None:
    with pytest.raises(UserError, match="`runs` must be two or more.*Received: 1"):
        compare.compare([run], 32)


def test_runs_with_other_test_images_are_refused(run: Run, tmp_path: pathlib.Path) -> None:
    other = copied(run, tmp_path / "other")
    text = pathlib.Path(other.file("splits.csv")).read_text()
    write_text(other.file("splits.csv"), text.replace(",test", ",val", 1))
    with pytest.raises(UserError, match="same test images.*24 and .* with 23.*1 of them not shared"):
        compare.compare([run, other], 32)


def test_other_images_under_the_same_names_are_refused(run: Run, tmp_path: pathlib.Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(run.config.data, photos)
    other = copied(run, tmp_path / "other")
    config = json.loads(pathlib.Path(other.file("config.json")).read_text())
    config["flags"]["data"] = str(photos)
    write_text(other.file("config.json"), json.dumps(config))
    other = dataclasses.replace(other, config=dataclasses.replace(other.config, data=str(photos)))
    compare.shared_images([run, other])
    address = run.split("test").addresses[0]
    (photos / address).write_bytes(encode(np.zeros((9, 9, 3), np.uint8), "PNG"))
    with pytest.raises(UserError, match="Not the same in .*: 1 image, such as "):
        compare.shared_images([run, other])


def test_the_order_of_splits_csv_does_not_matter(run: Run, tmp_path: pathlib.Path) -> None:
    other = copied(run, tmp_path / "other")
    header, *rows = pathlib.Path(other.file("splits.csv")).read_text().splitlines()
    write_text(other.file("splits.csv"), "\n".join([header, *reversed(rows)]) + "\n")
    first, second = compare.shared_images([run, other])
    assert first.addresses == second.addresses
    np.testing.assert_array_equal(first.labels, second.labels)
