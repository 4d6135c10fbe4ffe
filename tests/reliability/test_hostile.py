"""Files of strangers are data, not code: refused with a message, and nothing of what they ask for happens."""

from __future__ import annotations

import json
import os
import pathlib
import pickle
import time
import zipfile
from typing import Any

import h5py
import keras
import numpy as np
import psutil
import pytest
import tensorflow as tf

import models
from errors import UserError
from evaluation import predictions
from models import saved_models, weights
from tests.data.test_validation import GOOD
from tests.reliability import mutants

PRICE = 1 << 30  # Bytes that a hostile file may cost at most; it asks for many times more.


@pytest.fixture(scope="module")
def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    return models.build("lenet5", 2, image_size=32)


@pytest.fixture
def trained(network: keras.Model, tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "model.keras"
    network.save(path)
    return path


def changed(path: pathlib.Path, **members: bytes | None) -> pathlib.Path:
    """A copy of the archive with some members replaced; `__` stands for `.`."""
    result = path.with_name("changed.keras")
    replaced = {name.replace("__", "."): content for name, content in members.items()}
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            content = replaced.pop(name, source.read(name))
            if content is not None:
                target.writestr(name, content)
        for name, content in replaced.items():
            target.writestr(name, content or b"")
    return result


def refused(path: pathlib.Path) -> str:
    """The message of `load_trained`, which must come soon and cost little."""
    start, before = time.process_time(), psutil.Process().memory_info().rss
    with pytest.raises(UserError) as caught:
        weights.load_trained(path)
    assert time.process_time() - start < 60
    assert psutil.Process().memory_info().rss - before < PRICE
    return str(caught.value)


def config_of(path: pathlib.Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("config.json"))


def test_a_lambda_layer_is_never_run(tmp_path: pathlib.Path) -> None:
    mark = tmp_path / "run"
    pixels = keras.Input((8, 8, 1))
    hostile = keras.layers.Lambda(lambda x, mark=str(mark): [x, open(mark, "w").close()][0], output_shape=(8, 8, 1))
    model = keras.Model(pixels, keras.layers.Flatten(name="head")(hostile(pixels)))
    mark.unlink(missing_ok=True)
    model.save(tmp_path / "model.keras")
    mark.unlink(missing_ok=True)
    message = refused(tmp_path / "model.keras")
    assert "without code in it" in message and "ambda" in message
    assert not mark.exists()


@pytest.mark.parametrize(
    "named",
    [
        {"module": "os", "class_name": "system"},
        {"module": "subprocess", "class_name": "Popen"},
        {"module": "builtins", "class_name": "eval"},
        {"module": "keras.utils", "class_name": "get_file"},
        {"module": "tests.reliability.no_such_module", "class_name": "Thing"},
    ],
)
def test_classes_from_elsewhere_are_never_made(trained: pathlib.Path, named: dict[str, str]) -> None:
    mark = trained.with_name("run")
    config = config_of(trained)
    hostile = {**named, "registered_name": None, "config": {"args": f"touch {mark}", "name": f"touch {mark}"}}
    config["config"]["layers"][1].update(hostile)
    refused(changed(trained, config__json=json.dumps(config).encode()))
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["nested deep", "giant layer", "no json", "a list", "empty"])
def test_hostile_configurations(trained: pathlib.Path, kind: str) -> None:
    config = config_of(trained)
    if kind == "giant layer":
        text = json.dumps(config).replace('"units": 120', '"units": 200000000')
        assert "200000000" in text
    else:
        text = {"nested deep": "[" * 100_000 + "]" * 100_000, "no json": "{", "a list": "[]", "empty": ""}[kind]
    refused(changed(trained, config__json=text.encode()))


def test_zip_bombs(trained: pathlib.Path) -> None:
    """Gigabytes of zeros in a few megabytes, as configuration and as weights."""
    for member in ("config.json", "model.weights.h5"):
        path = trained.with_name("bomb.keras")
        with zipfile.ZipFile(trained) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, True, 1) as target:
            for name in source.namelist():
                if name != member:
                    target.writestr(name, source.read(name))
                    continue
                with target.open(name, "w", force_zip64=True) as file:
                    for _ in range(1500):
                        file.write(bytes(1 << 20))
        refused(path)


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside-of-archive", "a/../../outside", "assets/../../outside"])
def test_archives_cannot_write_outside(trained: pathlib.Path, name: str) -> None:
    """Keras reads members by their names and unpacks only what it asks for; others are never written anywhere."""
    path = changed(trained, **{name: b"hostile"})
    before = set(trained.parent.rglob("*"))
    try:
        weights.load_trained(path)
    except UserError:
        pass
    assert set(trained.parent.rglob("*")) == before
    assert not pathlib.Path("/tmp/outside-of-archive").exists()
    assert not (trained.parent.parent / "outside").exists()


def test_weights_that_are_links_to_other_files(trained: pathlib.Path, network: keras.Model) -> None:
    """External links and external storage would read any file of this machine into the model."""
    secret = trained.with_name("secret.h5")
    with h5py.File(secret, "w") as file:
        file["secret"] = np.ones((5, 5, 1, 6), np.float32)
    with zipfile.ZipFile(trained) as archive:
        content = archive.read("model.weights.h5")
    for kind in ("external link", "external storage"):
        copy = trained.with_name("weights.h5")
        copy.write_bytes(content)
        with h5py.File(copy, "r+") as file:
            name = file.visititems(lambda name, item: name if getattr(item, "shape", ()) == (5, 5, 1, 6) else None)
            del file[name]
            if kind == "external link":
                file[name] = h5py.ExternalLink(str(secret), "/secret")
            else:
                file.create_dataset(name, (5, 5, 1, 6), "f4", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
        path = changed(trained, **{"model__weights__h5": copy.read_bytes()})
        refused(path)
        with pytest.raises(UserError, match="refused"):
            weights.load(network, "lenet5", str(path))


class Hostile:
    """What `pickle.load` would run."""

    def __init__(self, mark: pathlib.Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
@pytest.mark.parametrize("form", ["pickle", "torch", "torch legacy", "npz", "renamed .keras", "renamed .h5"])
def test_pickles_are_never_run(tmp_path: pathlib.Path, form: str) -> None:
    mark, hostile = tmp_path / "run", {"features.0.weight": Hostile(tmp_path / "run")}
    path = tmp_path / {"renamed .keras": "a.keras", "renamed .h5": "a.h5"}.get(form, "a.pth")
    if form.startswith("torch"):
        torch = pytest.importorskip("torch", reason="torch writes the file")
        torch.save(hostile, path, _use_new_zipfile_serialization=form == "torch")
    elif form == "npz":
        with open(path, "wb") as file:
            np.savez(file, allow_pickle=True, a=np.asarray([hostile], dtype=object))
    else:
        path.write_bytes(pickle.dumps(hostile))
    model = models.build("alexnet_owt", 2, image_size=63, transfer=True)
    with pytest.raises(UserError, match="--weights=.* can't be used for --model=alexnet_owt"):
        weights.load(model, "alexnet_owt", str(path))
    refused(path)
    assert not mark.exists()


class Reaching(tf.Module):
    """A model whose graph does more than compute."""

    def __init__(self, how: str, place: pathlib.Path) -> None:
        super().__init__()
        self.variable = tf.Variable(1.0)
        path = str(place)
        acts = {
            "reads": lambda x: tf.io.read_file(path),
            "writes": lambda x: tf.raw_ops.WriteFile(filename=path, contents="x") and x,
            "lists": lambda x: tf.raw_ops.MatchingFiles(pattern="/etc/*"),
            "python": lambda x: tf.numpy_function(lambda y: y, [x], tf.string),
            "data set": lambda x: tf.data.TextLineDataset(path).batch(1).get_single_element(),
            "prints to a file": lambda x: [tf.print(x, output_stream=f"file://{path}"), x][1],
            "in a branch": lambda x: tf.cond(tf.size(x) > 3, lambda: tf.io.read_file(path), lambda: x[0]),
            "in a map": lambda x: tf.map_fn(tf.io.read_file, x),
            "in a data set's map": lambda x: (
                tf.data.Dataset.from_tensors(x[0]).map(tf.io.read_file).get_single_element()
            ),
            "only computes": lambda x: x,
        }
        act = acts[how]
        self.serve = tf.function(
            lambda image_bytes: {"label": act(image_bytes)},
            input_signature=[tf.TensorSpec((None,), tf.string, "image_bytes")],
        )


REACHING = [
    *("reads", "writes", "lists", "python", "data set", "prints to a file"),
    *("in a branch", "in a map", "in a data set's map"),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("how", REACHING)
def test_saved_models_that_reach_out_are_not_loaded(tmp_path: pathlib.Path, how: str) -> None:
    module = Reaching(how, tmp_path / "file")
    tf.saved_model.save(module, str(tmp_path / "1"), signatures={"serving_default": module.serve})
    with pytest.raises(UserError, match="must only compute. Received one that can reach .*; it was not loaded"):
        saved_models.load(str(tmp_path / "1"))
    assert not (tmp_path / "file").exists()


def test_saved_models_that_only_compute_are(tmp_path: pathlib.Path) -> None:
    module = Reaching("only computes", tmp_path)
    tf.saved_model.save(module, str(tmp_path / "1"), signatures={"serving_default": module.serve})
    loaded = saved_models.load(str(tmp_path / "1"))
    assert loaded.signatures["serving_default"](image_bytes=tf.constant(["a"]))["label"].numpy().tolist() == [b"a"]


def test_every_export_of_ours_is_loaded(network: keras.Model, tmp_path: pathlib.Path) -> None:
    from serving.export import save
    from serving.wire import Metadata

    save(network, str(tmp_path / "1"), Metadata("lenet5", ("a", "b"), 32, 1, ("class",), "run", {}))
    assert "serving_default" in saved_models.load(str(tmp_path / "1")).signatures


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "two graphs", "other form", "no variables", "missing"])
def test_damaged_saved_models(tmp_path: pathlib.Path, damage: str) -> None:
    module = Reaching("only computes", tmp_path)
    tf.saved_model.save(module, str(tmp_path / "1"), signatures={"serving_default": module.serve})
    graph = tmp_path / "1" / "saved_model.pb"
    content = graph.read_bytes()
    if damage == "other form":
        (tmp_path / "1" / "saved_model.pbtxt").write_text("saved_model_schema_version: 1")
    elif damage == "no variables":
        for file in (tmp_path / "1" / "variables").iterdir():
            file.unlink()
    elif damage == "missing":
        graph.unlink()
    else:
        graph.write_bytes({"empty": b"", "cut": content[:-50], "text": b"hello", "two graphs": content * 2}[damage])
    with pytest.raises(UserError, match="must be a whole SavedModel"):
        saved_models.load(str(tmp_path / "1"))


def test_mutated_images_get_a_label_or_an_error_each(tmp_path: pathlib.Path) -> None:
    """Of all formats; `python -m tests.reliability.mutants` gives ten thousand photographs to the real script."""
    kinds = mutants.write(tmp_path / "mutants", [content for content, *_ in GOOD.values()], 400, seed=7)
    paths = predictions.find_files([str(tmp_path / "mutants")])

    def answer(pixels: np.ndarray) -> predictions.Answers:
        return {"probabilities": np.full((len(pixels), 2), 0.5)}

    rows = list(predictions.of_files(paths, answer, image_size=16, channels=3, batch_size=32))
    assert [os.path.basename(path) for path, _, _ in rows] == list(kinds)
    assert all(bool(answer) != bool(error) for _, answer, error in rows)
    untouched = [error for (*_, error), kind in zip(rows, kinds.values(), strict=True) if kind == "nothing"]
    assert not any(untouched)
    assert sum(bool(error) for *_, error in rows) > 100
