"""Runs a TensorFlow Serving that is installed on this machine; tests of the serving code use it too."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import IO

from errors import UserError

IMAGE = "tensorflow/serving:2.20.0"
NONE_FOUND = f"no tensorflow_model_server on PATH, and no Docker engine with the image {IMAGE}"
_BINARY = "tensorflow_model_server"
_CONFIG = pathlib.Path(__file__).resolve().parents[1] / "serving"
_START_SECONDS = 120.0


def find() -> str | None:
    """`binary`, `docker`, or None when neither can run."""
    if shutil.which(_BINARY):
        return "binary"
    if not shutil.which("docker"):
        return None
    # Only an image that is already there: a test should not download half a gigabyte.
    inspected = subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, timeout=30, check=False)
    return "docker" if inspected.returncode == 0 else None


@contextlib.contextmanager
def running(model_dir: str, *, batching: bool) -> Iterator[tuple[str, str]]:
    """Serves the versions in `model_dir` as `darkroom`; yields the addresses for gRPC and HTTP.

    Raises:
        UserError: there is no server to run, or it didn't load the model within two minutes.
    """
    kind = find()
    if kind is None:
        raise UserError(f"A TensorFlow Serving is needed. Received: {NONE_FOUND}.")
    grpc_port, rest_port = _free_port(), _free_port()
    name = f"darkroom-{os.getpid()}-{grpc_port}"
    command = _command(kind, name, os.path.abspath(model_dir), grpc_port, rest_port, batching)
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait(process, rest_port, log)
            yield f"127.0.0.1:{grpc_port}", f"127.0.0.1:{rest_port}"
        finally:
            if kind == "docker":
                subprocess.run(["docker", "rm", "--force", name], capture_output=True, timeout=60, check=False)
            process.terminate()
            process.wait(timeout=60)


def _command(kind: str, name: str, model_dir: str, grpc_port: int, rest_port: int, batching: bool) -> list[str]:
    config = str(_CONFIG) if kind == "binary" else "/config"
    options = ["--enable_batching=true", f"--batching_parameters_file={config}/batching.config"] if batching else []
    if kind == "binary":
        ports = [f"--port={grpc_port}", f"--rest_api_port={rest_port}"]
        return [_BINARY, *ports, "--model_name=darkroom", f"--model_base_path={model_dir}", *options]
    ports = [f"--publish=127.0.0.1:{grpc_port}:8500", f"--publish=127.0.0.1:{rest_port}:8501"]
    folders = [f"--volume={model_dir}:/models/darkroom:ro", f"--volume={_CONFIG}:/config:ro"]
    return ["docker", "run", "--rm", "--name", name, *ports, *folders, "--env=MODEL_NAME=darkroom", IMAGE, *options]


def _wait(process: subprocess.Popen, port: int, log: IO[bytes]) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models/darkroom", timeout=5) as answer:
                if b"AVAILABLE" in answer.read():
                    return
        time.sleep(0.2)
    log.seek(0)
    last = log.read()[-2000:].decode("utf-8", "replace")
    raise UserError(f"The server must load the model within {_START_SECONDS:g} seconds. Its log ends:\n{last}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
