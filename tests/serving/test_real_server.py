"""The same promises, kept by a real TensorFlow Serving where one is found."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import keras
import numpy as np
import pytest

from benchmarks import local_server
from serving import asking
from serving.transport import Grpc, Rest, Target
from tests.serving.conftest import about
from tests.serving.test_export import expected


@pytest.fixture(scope="module", params=[False, True], ids=["alone", "batching"])
def real(request: pytest.FixtureRequest, published: pathlib.Path) -> Iterator[tuple[str, str]]:
    if local_server.find() is None:
        pytest.skip(local_server.NONE_FOUND)
    with local_server.running(str(published), batching=request.param) as addresses:
        yield addresses


@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_a_real_server_answers_as_the_model_does(real, kind: str, model: keras.Model, pictures: list[bytes]) -> None:
    transport = Grpc(Target(real[0], "darkroom")) if kind == "grpc" else Rest(Target(real[1], "darkroom"))
    assert asking.metadata(transport, asking.Patience()) == about()
    answers = asking.classify(transport, [*pictures, b"junk"], asking.Patience())
    np.testing.assert_allclose([row.probabilities for row in answers[:-1]], expected(model, pictures), atol=1e-5)
    assert answers[-1].error and not answers[-1].label
