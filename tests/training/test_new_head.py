"""The example of docs/extending.md: a head that is added at run time, in one place, and works everywhere."""

from __future__ import annotations

import csv
import io
import json
import pathlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf

import models
from errors import UserError
from evaluation import predictions, report
from evaluation.assessment import assess
from evaluation.subject import own_test_split, subject_in
from models import ModelSpec, layers
from serving import answers, client, export
from serving.transport import Patience
from tests.conftest import encode
from tests.evaluation.pages_read import Page, differing
from training import heads
from training.config import TrainConfig
from training.resolve import resolved
from training.run import Run
from training.trainer import train


class AgeHead(heads.NumberHead):
    """Years, from the table's column `age`."""

    name = "age"
    needs = ("age",)
    title = "Age"
    caption = "Each point is a person; above the dashed diagonal are those who look older than they are."
    axis = "true age (years)"
    limits = (0, 100)
    unit = "years"

    def target(self, pixels: tf.Tensor, labels: tf.Tensor, columns: heads.Columns) -> tf.Tensor:
        """Shape `(batch, 1)`."""
        return tf.cast(columns["age"], tf.float32)[:, tf.newaxis]


def ages(spec: ModelSpec, num_classes: int, image_size: int, transfer: bool) -> keras.Model:
    """A network with that head: the mean of the pixels, and a line through it for each output."""
    preprocessed = keras.Input((image_size, image_size, spec.channels), name="preprocessed")
    backbone = keras.Model(preprocessed, keras.layers.GlobalAveragePooling2D()(preprocessed), name="backbone")
    features = keras.Input(backbone.output_shape[1:], name="features")
    logits = keras.layers.Dense(layers.num_logits(num_classes), name="class_logits")(features)
    years = keras.layers.Dense(1, bias_initializer=keras.initializers.Constant(50.0), name="age")(features)
    head = keras.Model(features, {"class": logits, "age": years}, name="head")
    return layers.compose(spec, image_size, backbone, head)


SPEC = ModelSpec(
    f"{__name__}:ages", "no paper", 16, 4, 1, "centered", 4, classes=2, heads=("class", "age"), loss_weights=(1, 0.01)
)


@pytest.fixture(scope="module", autouse=True)
def added() -> Iterator[None]:
    """All that is to be added: the head, and the row of a network that has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(heads.HEADS, "age", AgeHead)
        patch.setitem(models.REGISTRY, "ages", SPEC)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """60 gray images, the lighter the older, with their ages in the table's third column."""
    folder = tmp_path_factory.mktemp("people")
    generator = np.random.default_rng(0)
    rows = ["path,label,age"]
    for i in range(60):
        age = generator.integers(1, 99)
        shade = np.clip(2.5 * age + generator.normal(0, 3, (20, 24, 3)), 0, 255)
        (folder / f"{i:02d}.png").write_bytes(encode(shade.astype(np.uint8), "PNG"))
        rows.append(f"{i:02d}.png,{'old' if age > 50 else 'young'},{age}")
    (folder / "people.csv").write_text("\n".join(rows))
    return folder


def config(folder: pathlib.Path, name: str, **given: object) -> TrainConfig:
    shares = {"train_fraction": 0.5, "val_fraction": 0.2, "test_fraction": 0.3}
    flags = {"model": "ages", "epochs": 20, "batch_size": 5, "learning_rate": 1.0, "run_dir": str(folder / name)}
    data = str(folder / "people.csv")
    return resolved(TrainConfig(**{"data": data, **flags, **shares, **given}))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(folder: pathlib.Path) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        return train(config(folder, "run"), command="python train.py --model=ages")


def true_ages(run: Run) -> dict[str, float]:
    dataset = run.dataset
    return dict(zip(dataset.addresses, dataset.columns["age"].tolist(), strict=True))


def test_it_is_learned_from_the_column(run: Run) -> None:
    found = run.test_metrics()
    assert {"class_accuracy", "class_loss", "age_mae", "age_loss"} <= set(found)
    ages = np.asarray(list(true_ages(run).values()))
    assert found["age_mae"] < 0.4 * np.abs(ages - np.median(ages)).mean()


@pytest.mark.parametrize("given", [{"freeze": True}, {"cache": "none"}, {"cache": "disk"}])
def test_features_and_caches_bring_the_column_along(
    run: Run, folder: pathlib.Path, tmp_path: pathlib.Path, given: dict[str, object]
) -> None:
    weights = run.file("model.keras") if "freeze" in given else "none"
    found = train(config(folder, str(tmp_path / "run"), epochs=2, weights=weights, **given), command="")
    split, ages = found.split("test"), true_ages(found)
    expected = np.asarray([ages[address] for address in split.addresses])
    estimates = np.concatenate([found.load_model()(pixels)["age"][:, 0] for pixels in split.pixels()])
    assert found.test_metrics()["age_mae"] == pytest.approx(np.abs(estimates - expected).mean(), rel=1e-4)


def test_the_report_has_its_section(run: Run, tmp_path: pathlib.Path) -> None:
    model = run.load_model()
    subject = own_test_split(run, "model.keras")
    assessment = assess(subject, predictions.from_model(model, run.heads), 7)
    assert assessment.numbers["age"]["mae"] == pytest.approx(run.test_metrics()["age_mae"], rel=1e-4)
    assert assessment.numbers["brightness"] is None
    page = Page(pathlib.Path(report.write(assessment, model, str(tmp_path))).read_text())
    assert "Age head" in page.text and "Age: estimate against measurement" in page.text
    assert "Mean absolute error (years)" in page.text and "look older than they are" in page.text
    assert ("/age/mae", "decimal", f"{assessment.numbers['age']['mae']:.3f}") in page.numbers
    assert differing(page.numbers, tmp_path / "metrics.json") == []
    assert f"| age, mean absolute error (years) | {assessment.numbers['age']['mae']:.3f} | |" in report.card(assessment)


def test_images_without_the_column_are_judged_by_their_class(
    run: Run, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for name in ("old", "young"):
        (tmp_path / name).mkdir()
        for i in (0, 1):
            shade = np.full((20, 24, 3), 200 + i if name == "old" else 40 + i, np.uint8)
            (tmp_path / name / f"{i}.png").write_bytes(encode(shade, "PNG"))
    subject = subject_in(run, str(tmp_path), None, "model.keras")
    found = assess(subject, predictions.from_model(run.load_model(), run.heads), 7)
    assert found.numbers["age"] is None and found.numbers["images"] == 4


def test_a_data_set_without_the_column_is_refused(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    lines = (folder / "people.csv").read_text().splitlines()
    (folder / "nameless.csv").write_text("\n".join(line.rsplit(",", 1)[0] for line in lines))
    other = config(folder, str(tmp_path / "run"), data=str(folder / "nameless.csv"))
    with pytest.raises(UserError, match=r"must have the age of each image.*path,label,age\. Received:.*no further"):
        train(other, command="")


def test_rows_have_its_column(run: Run, folder: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    paths = [str(folder / "00.png"), str(folder / "none.png")]
    answer = predictions.answering(run.load_model(), run.heads)
    (good_path, given, _), (bad_path, _, error) = predictions.of_files(
        paths, answer, image_size=16, channels=1, batch_size=8
    )
    probabilities = answers.ranked(run.class_names, given["probabilities"])
    rows = [
        answers.Row(good_path, probabilities, {"age": given["age"]}),
        answers.Row(bad_path, error=error),
    ]
    layout = answers.Layout(paths, run.class_names, [head.name for head in heads.further(run.heads)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout.reconfigure", lambda **_: None, raising=False)
        answers.write(rows, layout, SimpleNamespace(format="csv", top_k=None))
    good, bad = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert list(good)[-2:] == ["age", "error"] and (bad["age"], bad["error"]) == ("", "no such file")
    assert abs(float(good["age"]) - true_ages(run)["00.png"]) < 20


class Exported:
    """The SavedModel behind the interface of a server."""

    target: ClassVar = SimpleNamespace(server="here")

    def __init__(self, path: str) -> None:
        self.loaded = tf.saved_model.load(path)

    def call(self, signature: str, name: str, values: list[bytes], seconds: float) -> dict[str, list]:
        found = self.loaded.signatures[signature](**{name: tf.constant(values)})
        columns = {key: value.numpy().tolist() for key, value in found.items()}
        return {
            key: [value.decode() if isinstance(value, bytes) else value for value in values]
            for key, values in columns.items()
        }


def test_the_server_answers_it_and_the_client_shows_it(run: Run, folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = export.export_run(run, base=str(tmp_path))
    server, patience = Exported(path), Patience()
    about = client.metadata(server, patience)  # type: ignore[arg-type]
    assert about.further_heads == ("age",)
    assert json.loads(about.to_json())["heads"] == ["class", "age"]
    split = run.split("test")
    found = client.classify(server, [split.encoded(i) for i in range(len(split))], patience)  # type: ignore[arg-type]
    expected = predictions.from_model(run.load_model(), run.heads)(split, 8, "predicting")
    np.testing.assert_allclose([row.further["age"] for row in found], expected.answers["age"], rtol=1e-5)
    served = predictions.from_saved_model(path, run.heads)(split, 8, "predicting")
    np.testing.assert_allclose(served.answers["age"], expected.answers["age"], rtol=1e-5)
    np.testing.assert_array_equal(served.targets["age"], expected.targets["age"])
