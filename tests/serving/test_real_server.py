"""The same promises, kept by a real TensorFlow Serving where one is found."""

from __future__ import annotations

import json
import pathlib
import urllib.error
import urllib.request
from collections.abc import Iterator

import keras
import numpy as np
import pytest

from benchmarks import local_server
from serving import client
from serving.transport import Grpc, Patience, Rest, Target
from tests.serving.conftest import SIZE, about
from tests.serving.test_export import expected


@pytest.fixture(scope="module", params=[False, True], ids=["alone", "batching"])
def real(request: pytest.FixtureRequest, published: pathlib.Path) -> Iterator[tuple[str, str]]:
    if local_server.find() is None:
        pytest.skip(local_server.NONE_FOUND)
    with local_server.running(str(published), batching=request.param) as addresses:
        yield addresses


@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_a_real_server_answers_as_the_model_does(real, kind: str, model: keras.Model, images: list[bytes]) -> None:
    transport = Grpc(Target(real[0], "darkroom")) if kind == "grpc" else Rest(Target(real[1], "darkroom"))
    assert client.metadata(transport, Patience()) == about()
    answers = client.classify(transport, [*images, b"junk"], Patience())
    np.testing.assert_allclose([row.probabilities for row in answers[:-1]], expected(model, images), atol=1e-5)
    assert answers[-1].error and not answers[-1].label


def post(address: str, body: dict) -> tuple[int, dict]:
    request = urllib.request.Request(f"http://{address}/v1/models/darkroom:predict", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


# The real server infers a shape from the JSON, whatever the signature says: a graph that doesn't look is run on it.
@pytest.mark.parametrize(
    "instances",
    [
        pytest.param([1], id="numbers"),
        pytest.param([[1, 2], [3, 4]], id="rows"),
        pytest.param([[[[1]]]], id="one pixel of one channel"),
        pytest.param([[[[1, 2, 3]]]], id="one pixel"),
        pytest.param(np.zeros((1, SIZE, SIZE, 1), int).tolist(), id="one channel"),
        pytest.param(np.zeros((2, SIZE, SIZE + 1, 3), int).tolist(), id="too wide"),
        pytest.param(np.zeros((SIZE, SIZE, 3), int).tolist(), id="no batch"),
    ],
)
def test_pixels_of_another_shape_are_refused_and_the_server_lives(real, instances: list) -> None:
    status, answer = post(real[1], {"signature_name": "pixels", "instances": instances})
    assert status == 400 and f"[?,{SIZE},{SIZE},3]" in answer["error"], answer
    good = np.zeros((2, SIZE, SIZE, 3), int).tolist()
    status, answer = post(real[1], {"signature_name": "pixels", "instances": good})
    assert status == 200 and len(answer["predictions"]) == 2, answer
