"""The client against a stand-in server that answers from the SavedModel, and can be slow, full, or gone."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import keras
import numpy as np
import pytest

from errors import UserError
from serving import client
from serving.transport import Grpc, Patience, Rest, Target, Transport, request_body
from tests.conftest import encode, stripes
from tests.serving import stand_in
from tests.serving.conftest import CLASSES, about
from tests.serving.test_export import expected

ROOT = pathlib.Path(__file__).resolve().parents[2]
KINDS = ("grpc", "rest")
SOON = Patience(deadline_seconds=20.0)


def connect(addresses: tuple[str, str], kind: str, model: str = "darkroom") -> Transport:
    target = Target(addresses[KINDS.index(kind)], model)
    return Grpc(target) if kind == "grpc" else Rest(target)


@contextlib.contextmanager
def serving(served: stand_in.Served, before: Callable[[], None]) -> Iterator[tuple[str, str]]:
    with stand_in.running(dataclasses.replace(served, before=before)) as addresses:
        yield addresses


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_the_models(addresses, kind: str, model: keras.Model, images: list[bytes]) -> None:
    answers = client.classify(connect(addresses, kind), [*images, b"junk"], SOON)
    probabilities = expected(model, images)
    np.testing.assert_allclose([answer.probabilities for answer in answers[:-1]], probabilities, atol=1e-5)
    assert [answer.label for answer in answers[:-1]] == [CLASSES[i] for i in probabilities.argmax(axis=1)]
    assert answers[-1] == client.Answer("", 0.0, (0.0, 0.0), "not a JPEG, PNG, GIF or BMP image")


@pytest.mark.parametrize("kind", KINDS)
def test_the_metadata_comes_over(addresses, kind: str) -> None:
    assert client.metadata(connect(addresses, kind), SOON) == about()


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_model(addresses, kind: str) -> None:
    with pytest.raises(UserError, match="must have a model named cats .*Servable not found.*--model_name"):
        client.metadata(connect(addresses, kind, "cats"), SOON)


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_is_gone_is_reported(kind: str) -> None:
    address = free_address()
    with pytest.raises(UserError, match=f"No server can be reached at --server={address}.*Start TensorFlow Serving"):
        client.metadata(connect((address, address), kind), SOON)


@pytest.mark.parametrize("kind", KINDS)
def test_a_slow_server_meets_the_deadline(served, kind: str) -> None:
    release = threading.Event()
    with serving(served, lambda: release.wait(60) and None) as addresses:
        with pytest.raises(UserError, match="must answer within 0.4 seconds.*--deadline_seconds"):
            client.metadata(connect(addresses, kind), Patience(deadline_seconds=0.4))
        release.set()


class Full:
    """A server whose queue is full for the first `times` requests."""

    def __init__(self, times: int, code: str = "UNAVAILABLE") -> None:
        self.left = times
        self.code = code

    def __call__(self) -> None:
        self.left -= 1
        if self.left >= 0:
            raise stand_in.RefusedError(self.code, "the batch scheduling queue is full")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED"])
def test_a_full_server_is_asked_again_after_growing_pauses(served, kind: str, code: str) -> None:
    pauses: list[float] = []
    with serving(served, Full(4, code)) as addresses:
        patience = Patience(deadline_seconds=20.0, sleep=pauses.append)
        assert client.metadata(connect(addresses, kind), patience) == about()
    assert len(pauses) == 4
    for pause, longest in zip(pauses, (0.1, 0.2, 0.4, 0.8), strict=True):
        assert longest / 2 <= pause <= longest


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_stays_full(served, kind: str) -> None:
    with serving(served, Full(10**9)) as addresses:
        with pytest.raises(UserError, match="has been too busy for 0.5 seconds.*queue is full"):
            client.metadata(connect(addresses, kind), Patience(deadline_seconds=0.5))


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_comes_back_is_found(served, kind: str) -> None:
    grpc_address, rest_address = free_address(), free_address()
    ports = [int(address.rsplit(":")[-1]) for address in (grpc_address, rest_address)]
    with contextlib.ExitStack() as stack:
        started = []

        def start(seconds: float) -> None:
            if not started:
                started.append(stack.enter_context(stand_in.running(served, *ports)))
            time.sleep(seconds)

        transport = connect((grpc_address, rest_address), kind)
        assert client.metadata(transport, Patience(20.0, start)) == about()


@pytest.mark.parametrize("kind", KINDS)
def test_another_model_without_our_signatures(published, kind: str) -> None:
    class Loaded:
        signatures: dict = {}

    with stand_in.running(stand_in.Served("darkroom", 1, Loaded())) as addresses:
        with pytest.raises(UserError, match="must be one that export.py has written.*not found in signature def"):
            client.metadata(connect(addresses, kind), SOON)


def test_the_wrong_port_is_explained(addresses) -> None:
    with pytest.raises(UserError, match="--server"):
        client.metadata(connect(addresses[::-1], "rest"), Patience(2.0))
    with pytest.raises(UserError, match="--server"):
        client.metadata(connect(addresses[::-1], "grpc"), Patience(2.0))


@contextlib.contextmanager
def web_server(status: int, body: bytes) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (200, b"<html>hello</html>", "must be the address of a TensorFlow Serving.*hello"),
        (200, b'{"outputs": {"label": []}}', "metadata that can't be read"),
        (200, b'{"outputs": ["[]"]}', "metadata that can't be read"),
        (500, b"oops", "HTTP 500: oops"),
        (400, b'{"error": "no such thing"}', "HTTP 400: no such thing"),
        (504, b'{"error": "late"}', "must answer within"),
    ],
)
def test_odd_answers_become_words(status: int, body: bytes, message: str) -> None:
    with web_server(status, body) as address:
        with pytest.raises(UserError, match=message):
            client.metadata(Rest(Target(address, "darkroom")), SOON)


def test_an_answer_too_few_is_noticed() -> None:
    columns = {"label": ["a"], "score": [1.0], "probabilities": [[1.0, 0.0]], "error": [""]}
    with web_server(200, json.dumps({"outputs": columns}).encode()) as address:
        with pytest.raises(UserError, match="1 answer to 2 images"):
            client.classify(Rest(Target(address, "darkroom")), [b"", b""], SOON)


def test_a_request_is_at_most_1_4_times_the_file() -> None:
    image = encode(stripes(0, upright=True, size=(224, 224)))
    assert len(image) < len(request_body("serving_default", "image_bytes", [image])) <= 1.4 * len(image)


def test_batches_come_back_in_order_while_several_are_under_way(served, images: list[bytes]) -> None:
    numbers = iter(range(100))
    with serving(served, lambda: time.sleep(0.05 * (next(numbers) % 3 == 0))) as addresses:
        batches = [lambda image=image: [image] for image in images]
        answers = list(client.classify_all(connect(addresses, "grpc"), batches, SOON, parallel=4))
        together = client.classify(connect(addresses, "grpc"), images, SOON)
    assert [batch[0].label for batch in answers] == [answer.label for answer in together]
    np.testing.assert_allclose(
        [batch[0].probabilities for batch in answers], [answer.probabilities for answer in together], atol=1e-5
    )


@pytest.mark.parametrize(
    "server", ["localhost", "localhost:x", "localhost:0", "localhost:70000", "http://localhost:1", ""]
)
def test_addresses_that_are_none(server: str) -> None:
    with pytest.raises(UserError, match="--server must be HOST:PORT"):
        client.check_address(server, is_rest=False)


def test_addresses() -> None:
    for server in ("localhost:8500", "10.0.0.1:80", "[::1]:8500", "a-b.example.org:1"):
        client.check_address(server, is_rest=False)
    client.check_address("https://example.org:443", is_rest=True)


def test_large_files_are_batched_by_size(tmp_path: pathlib.Path) -> None:
    paths = []
    for i, mebibytes in enumerate((19, 19, 10, 3, 64, 1)):
        path = tmp_path / str(i)
        with path.open("wb") as file:
            file.truncate(mebibytes << 20)
        paths.append(str(path))
    assert [len(batch) for batch in client.split(paths, 3)] == [1, 3, 1, 1]
    assert [len(batch) for batch in client.split(paths[2:4], 1)] == [1, 1]


def test_a_file_that_is_no_image_by_size_is_not_sent(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "film.mp4"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 513 * 2**20)
    assert client.read(str(path)) == b""


def test_a_version_label_reaches_the_server(served: stand_in.Served) -> None:
    labels: list[str | None] = []
    with stand_in.running(dataclasses.replace(served, labels=labels)) as (grpc_address, rest_address):
        for way, address in ((Rest, rest_address), (Grpc, grpc_address)):
            for label in ("canary", None):
                transport = way(Target(address, "darkroom", label))
                assert transport.call("metadata", "request", [b""], 60.0)["metadata"]
    assert labels == ["canary", None] * 2
