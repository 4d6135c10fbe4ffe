"""Published files, from a server of the test's own."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import socket
import tempfile
import threading
import time

import h5py
import keras
import numpy as np
import pytest
from keras.src.applications import resnet as keras_resnet
from keras.src.applications import vgg16 as keras_vgg16
from keras.src.legacy.saving import legacy_h5_format

import models
from errors import UserError
from models import downloads, weights
from tests.models.deterministic import fill


class _Server:
    """Serves one file's bytes, or an error page; counts its GET requests, and calls `halfway` in each of them."""

    def __init__(self) -> None:
        self.content: bytes | None = None
        self.downloads = 0
        self.halfway = lambda: None
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_response(404 if outer.content is None else 200)
                self.send_header("Content-Length", str(len(outer.content or b"")))
                self.end_headers()

            def do_GET(self) -> None:
                outer.downloads += 1
                self.do_HEAD()
                content = outer.content or b""
                self.wfile.write(content[:1000])
                outer.halfway()
                self.wfile.write(content[1000:])

            def log_message(self, *args) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/squeezenet_notop.h5"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    (tmp_path / "keras").mkdir()
    monkeypatch.setenv("no_proxy", "*")
    server = _Server()
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> tuple[keras.Model, bytes]:
    model = models.build("squeezenet", 2, image_size=32, transfer=True)
    fill(model)
    path = tmp_path_factory.mktemp("published") / "file.h5"
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model.get_layer("backbone"))
    return model, path.read_bytes()


def _publish(monkeypatch, url: str, checksum: str) -> None:
    file = models.PublishedFile(url, checksum)
    spec = dataclasses.replace(
        models.REGISTRY["squeezenet"], weights=models.PublishedWeights(backbone=file, full=file, layout="keras")
    )
    monkeypatch.setitem(models.REGISTRY, "squeezenet", spec)


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_is_fetched_once_and_checked(algorithm, server, published, monkeypatch, capsys):
    source, server.content = published
    digest = hashlib.new(algorithm, server.content).hexdigest()
    _publish(monkeypatch, server.url, digest if algorithm == "md5" else digest[:8])
    for _ in range(2):
        model = models.build("squeezenet", 2, image_size=32, transfer=True)
        weights.load(model, "squeezenet", "imagenet")
        for ours, theirs in zip(
            model.get_layer("backbone").get_weights(), source.get_layer("backbone").get_weights(), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)

    assert server.downloads == 1
    assert socket.getdefaulttimeout() is None


def test_a_damaged_file_in_the_cache_is_fetched_again(server, published, monkeypatch):
    _, server.content = published
    _publish(monkeypatch, server.url, hashlib.sha256(server.content).hexdigest()[:8])
    downloads.cache_folders()[0].mkdir(parents=True)
    cached = downloads.cache_folders()[0] / "squeezenet_notop.h5"
    cached.write_bytes(b"half")

    assert downloads.fetch(models.find("squeezenet"), include_head=False) == cached
    assert cached.read_bytes() == server.content


def test_two_that_fetch_the_same_do_not_meet(server, published, monkeypatch):
    """The second begins and ends while the first is at work."""
    _, server.content = published
    _publish(monkeypatch, server.url, hashlib.sha256(server.content).hexdigest()[:8])
    paths = []

    def fetch() -> None:
        server.halfway = lambda: None
        paths.append(downloads.fetch(models.find("squeezenet"), include_head=False))

    server.halfway = fetch
    paths.append(downloads.fetch(models.find("squeezenet"), include_head=False))
    target = downloads.cache_folders()[0] / "squeezenet_notop.h5"
    assert paths == [target, target] and server.downloads == 2
    assert target.read_bytes() == server.content
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("checksum", ["0" * 32, "0" * 8])
def test_another_checksum_is_refused_and_not_kept(checksum, server, monkeypatch):
    server.content = b"<html>captive portal</html>"
    _publish(monkeypatch, server.url, checksum)

    with pytest.raises(UserError, match=f"{checksum}.*--weights=PATH"):
        downloads.fetch(models.find("squeezenet"), include_head=False)
    assert list(downloads.cache_folders()[0].iterdir()) == []


def test_a_cache_that_cannot_be_written_is_read_and_passed_by(server, published, monkeypatch, tmp_path):
    _, server.content = published
    _publish(monkeypatch, server.url, hashlib.md5(server.content).hexdigest())
    (tmp_path / "file").write_text("a file where a folder should be")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))

    assert downloads.fetch(models.find("squeezenet"), False) == tmp_path / ".keras/models/squeezenet_notop.h5"


def _message(model: str) -> str:
    with pytest.raises(UserError) as caught:
        downloads.fetch(models.find(model), include_head=False)
    return str(caught.value)


def test_a_missing_file_says_what_the_server_answered(server, monkeypatch):
    _publish(monkeypatch, server.url, "0" * 32)

    message = _message("squeezenet")

    assert "404" in message
    for needed in (
        server.url,
        str(downloads.cache_folders()[0] / "squeezenet_notop.h5"),
        "--weights=PATH",
        "md5 " + "0" * 32,
    ):
        assert needed in message


def test_a_silent_server_is_given_up_in_time(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(downloads, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        _publish(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}/file.h5", "0" * 32)
        start = time.monotonic()
        message = _message("squeezenet")

    assert time.monotonic() - start < 5
    assert "file.h5" in message


def test_a_name_server_that_hangs_is_given_up_in_time(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(downloads, "ANSWER_SECONDS", 0.5)
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: answered.wait(5))
    start = time.monotonic()

    assert "no answer within" in _message("resnet50")
    assert time.monotonic() - start < 2
    answered.set()


def test_the_waits_add_up_to_less_than_thirty_seconds():
    assert downloads.ANSWER_SECONDS + downloads.STALL_SECONDS < 30


def test_a_network_without_published_weights_says_so():
    with pytest.raises(UserError, match="no matching weights are published for --model=lenet5"):
        downloads.fetch(models.find("lenet5"), include_head=False)


def test_addresses_and_checksums_are_those_of_keras_applications(monkeypatch):
    for name in ("resnet50", "resnet101", "resnet152"):
        published = models.find(name).weights
        full, backbone = keras_resnet.WEIGHTS_HASHES[name]
        assert (published.full.checksum, published.backbone.checksum) == (full, backbone)
        stem = f"{keras_resnet.BASE_WEIGHTS_PATH}{name}_weights_tf_dim_ordering_tf_kernels"
        assert (published.full.url, published.backbone.url) == (f"{stem}.h5", f"{stem}_notop.h5")

    asked = []
    monkeypatch.setattr(keras_vgg16.file_utils, "get_file", lambda *args, **kwargs: asked.append((args, kwargs)))
    monkeypatch.setattr(keras_vgg16.Functional, "load_weights", lambda *args: None)
    keras_vgg16.VGG16(include_top=False, input_shape=(32, 32, 3))
    (_, url), kwargs = asked[0]
    assert models.find("vgg16").weights.backbone == models.PublishedFile(url, kwargs["file_hash"])
    assert models.find("vgg16").weights.full.url == keras_vgg16.WEIGHTS_PATH


def test_a_published_file_with_older_layer_names_is_read_in_order(server, published, monkeypatch, tmp_path):
    source, content = published
    (tmp_path / "renamed.h5").write_bytes(content)
    with h5py.File(tmp_path / "renamed.h5", "a") as file:
        names = list(file.attrs["layer_names"])
        for name in names:
            file.move(name, f"old_{name}")
        file.attrs["layer_names"] = [f"old_{name}" for name in names]
    server.content = (tmp_path / "renamed.h5").read_bytes()
    _publish(monkeypatch, server.url, hashlib.md5(server.content).hexdigest())
    model = models.build("squeezenet", 2, image_size=32, transfer=True)

    weights.load(model, "squeezenet", "imagenet")

    np.testing.assert_array_equal(
        model.get_layer("backbone").get_layer("fire9_expand3x3").kernel,
        source.get_layer("backbone").get_layer("fire9_expand3x3").kernel,
    )
    # A stranger's file gets no such trust: it may have two layers of one shape the other way round.
    with pytest.raises(UserError, match="another network"):
        weights.load(model, "squeezenet", str(tmp_path / "renamed.h5"))
