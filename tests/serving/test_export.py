from __future__ import annotations

import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import serving
from data.decode import decode
from errors import UserError
from serving import export
from serving.wire import Metadata
from tests.conftest import encode, stripes
from tests.serving.conftest import CLASSES, SIZE, about, tiny_model
from training import heads


def expected(model: keras.Model, images: list[bytes], channels: int = 3) -> np.ndarray:
    """Probabilities straight from the Keras model."""
    pixels = np.stack([decode(image, SIZE, channels).numpy() for image in images])
    logits = model(pixels.astype(np.float32), training=False)
    return heads.probabilities(heads.by_head(logits)["class"]).numpy()


@pytest.fixture(scope="module")
def loaded(published: pathlib.Path):
    return tf.saved_model.load(str(published / "1"))


def test_signatures_have_the_names_types_and_shapes_of_the_design(loaded) -> None:
    found = {
        name: (
            {
                key: (spec.dtype.name, spec.shape.as_list())
                for key, spec in function.structured_input_signature[1].items()
            },
            {key: (spec.dtype.name, spec.shape.as_list()) for key, spec in function.structured_outputs.items()},
        )
        for name, function in loaded.signatures.items()
    }
    rows = {"label": ("string", [None]), "score": ("float32", [None]), "probabilities": ("float32", [None, 2])}
    assert found == {
        "serving_default": ({"image_bytes": ("string", [None])}, {**rows, "error": ("string", [None])}),
        "pixels": ({"pixels": ("uint8", [None, SIZE, SIZE, 3])}, rows),
        "metadata": ({"request": ("string", [None])}, {"metadata": ("string", [None])}),
    }


def test_probabilities_equal_the_models_for_every_format(loaded, model: keras.Model, images: list[bytes]) -> None:
    answers = loaded.signatures["serving_default"](image_bytes=tf.constant(images))
    probabilities = expected(model, images)
    assert answers["error"].numpy().tolist() == [b""] * len(images)
    np.testing.assert_allclose(answers["probabilities"], probabilities, atol=1e-5)
    np.testing.assert_allclose(answers["score"], probabilities.max(axis=1), atol=1e-5)
    assert [CLASSES[i].encode() for i in probabilities.argmax(axis=1)] == answers["label"].numpy().tolist()
    assert len(set(answers["label"].numpy())) == 2


def test_pixels_answer_as_their_files_do(loaded, model: keras.Model, images: list[bytes]) -> None:
    pixels = np.stack([decode(image, SIZE, 3).numpy() for image in images])
    answers = loaded.signatures["pixels"](pixels=tf.constant(pixels))
    np.testing.assert_allclose(answers["probabilities"], expected(model, images), atol=1e-5)


def test_a_reloaded_keras_file_answers_the_same(loaded, model: keras.Model, images, tmp_path: pathlib.Path) -> None:
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    answers = loaded.signatures["serving_default"](image_bytes=tf.constant(images))
    np.testing.assert_allclose(answers["probabilities"], expected(reloaded, images), atol=1e-5)


def test_the_c_loader_runs_the_exported_graph(published: pathlib.Path, model: keras.Model, images: list[bytes]) -> None:
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        # The path of TensorFlow Serving: the session, the initializers and the signature map of a MetaGraph.
        meta_graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(published / "1"))
        signature = meta_graph.signature_def["serving_default"]
        assert signature.method_name == "tensorflow/serving/predict"
        feeds = {signature.inputs["image_bytes"].name: [*images, b"junk"]}
        answers = session.run({key: value.name for key, value in signature.outputs.items()}, feeds)
    np.testing.assert_allclose(answers["probabilities"][:-1], expected(model, images), atol=1e-5)
    assert answers["error"][-1] and not answers["label"][-1]


def test_many_classes_and_two_heads(tmp_path: pathlib.Path) -> None:
    names = ("a", "b", "c")
    model = tiny_model(3, two_heads=True, channels=1)
    export.save(model, str(tmp_path / "1"), about(names, channels=1, heads=("class", "brightness")))
    images = [encode(stripes(i, upright=True)) for i in range(3)]
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    answers = loaded.signatures["serving_default"](image_bytes=tf.constant([*images, b""]))
    np.testing.assert_allclose(answers["probabilities"][:3], expected(model, images, channels=1), atol=1e-5)
    pixels = np.stack([decode(image, SIZE, 1).numpy() for image in images]).astype(np.float32)
    brightness = model(pixels, training=False)["brightness"][:, 0]
    assert answers["brightness"].shape == (4,)
    np.testing.assert_allclose(answers["brightness"][:3], brightness, atol=1e-5)
    assert answers["brightness"][3] == answers["score"][3] == 0
    np.testing.assert_array_equal(answers["probabilities"][3], [0, 0, 0])


def test_the_graph_uses_only_operations_of_the_server(published: pathlib.Path) -> None:
    known = set(pathlib.Path(serving.__file__).with_name("ops_tensorflow_2_20.txt").read_text().split())
    ops = export.graph_ops(str(published / "1"))
    assert ops <= known
    assert {"DecodeJpeg", "DecodePng", "DecodeGif", "DecodeBmp", "IgnoreErrorsDataset", "Conv2D"} <= ops
    # Which formats it takes depends on the release.
    assert "DecodeImage" not in ops
    # The one operation that TensorFlow 2.21 has and 2.20 hasn't.
    assert "DecodeJxl" not in known


def test_an_operation_that_the_server_lacks_is_refused(tmp_path: pathlib.Path) -> None:
    """The one that TensorFlow 2.21 has and 2.20 hasn't."""

    class Newer(keras.layers.Layer):
        def call(self, logits: tf.Tensor) -> tf.Tensor:
            image = tf.raw_ops.DecodeJxl(contents=tf.constant(b""))
            return logits + tf.cast(tf.size(image), tf.float32)

        def compute_output_spec(self, logits: keras.KerasTensor) -> keras.KerasTensor:
            return keras.KerasTensor(logits.shape, logits.dtype)

    model = tiny_model()
    model = keras.Model(model.input, Newer()(model.output))
    with pytest.raises(UserError, match="TensorFlow 2.20 knows.*Received: DecodeJxl"):
        export.save(model, str(tmp_path / "1"), about())


@pytest.mark.parametrize(("num_logits", "class_names"), [(2, CLASSES), (3, CLASSES), (1, ("a", "b", "c")), (1, ("a",))])
def test_logits_that_do_not_fit_the_class_names_are_refused(num_logits: int, class_names, tmp_path) -> None:
    with pytest.raises(UserError, match="labels.txt"):
        export.save(tiny_model(num_logits), str(tmp_path / "1"), about(class_names))
    assert not (tmp_path / "1").exists()


def test_a_client_can_ask_for_the_metadata(loaded, published: pathlib.Path) -> None:
    answers = loaded.signatures["metadata"](request=tf.constant(["", "twice"]))["metadata"].numpy()
    assert [Metadata.from_json(answer) for answer in answers] == [about(), about()]
    assert json.loads((published / "1" / export.METADATA_FILE).read_text()) == json.loads(answers[0])


@pytest.mark.parametrize("columns", [1, 3])
def test_probabilities_are_those_of_evaluation(columns: int) -> None:
    logits = np.random.default_rng(0).normal(0, 30, (50, columns)).astype(np.float32)
    ours = heads.probabilities(tf.constant(logits))
    np.testing.assert_allclose(ours, heads.probabilities(logits), atol=1e-6)


def test_a_run_is_described_by_its_folder(run) -> None:
    described = export.describe(run)
    assert (described.model, described.run, described.image_size, described.channels) == (
        "lenet5",
        "lenet5-digits",
        32,
        1,
    )
    assert described.class_names == tuple("0123456789")
    assert described.details["git_commit"] == "abc"


def test_a_run_is_published_with_its_own_probabilities(run, tmp_path: pathlib.Path) -> None:
    paths = [export.export_run(run, base=str(tmp_path), keep_versions=1) for _ in range(2)]
    assert paths == [str(tmp_path / "1"), str(tmp_path / "2")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2"]
    split = run.split("test")
    encoded = [split.encoded(i) for i in range(len(split))]
    answers = tf.saved_model.load(paths[1]).signatures["serving_default"](image_bytes=tf.constant(encoded))
    own = np.concatenate([run.load_model()(pixels, training=False) for pixels in split.pixels(32)])
    np.testing.assert_allclose(answers["probabilities"], tf.nn.softmax(own), atol=1e-5)
