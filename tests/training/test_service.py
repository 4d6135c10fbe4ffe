"""Trainings whose batches a `tf.data` service makes."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from data import service
from errors import UserError
from tests.data.test_service import worker
from tests.witness import raise_at_epoch_end
from training.config import TrainConfig
from training.resolve import resolved
from training.run import Run
from training.trainer import train

ROOT = pathlib.Path(__file__).resolve().parents[2]
# All images in one step, or the order in which the batches come would change the result.
FLAGS = {"model": "lenet5", "image_size": 16, "batch_size": 64, "learning_rate": 1e-3, "epochs": 2, "augment": "full"}


@pytest.fixture(scope="module")
def address() -> object:
    dispatcher = tf.data.experimental.service.DispatchServer()
    servers = [worker(dispatcher.target) for _ in range(2)]
    yield dispatcher.target
    del servers


def assert_same(one: Run, other: Run, tolerance: float) -> None:
    for a, b in zip(one.load_model().get_weights(), other.load_model().get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance)
    for a, b in zip(one.history(), other.history(), strict=True):
        assert float(a["val_loss"]) == pytest.approx(float(b["val_loss"]), abs=1e-5)


def test_the_result_is_that_without_a_service(address: str, image_folder: pathlib.Path) -> None:
    flags = {**FLAGS, "data": str(image_folder)}
    here = train(resolved(TrainConfig(**flags, run_dir=str(image_folder.parent / "here"))), "test")
    config = resolved(TrainConfig(**flags, run_dir=str(image_folder.parent / "there"), data_service=address))
    assert config.cache == "none"
    assert_same(here, train(config, "test"), 1e-6)


@pytest.mark.slow
def test_two_workers_of_the_training_share_a_service(address: str, image_folder: pathlib.Path) -> None:
    flags = {**FLAGS, "data": str(image_folder)}
    one = train(resolved(TrainConfig(**flags, run_dir=str(image_folder.parent / "one"))), "test")
    given = {**flags, "run_dir": str(image_folder.parent / "two"), "data_service": address}
    command = ["-m", "training.launch", "--workers=2", "--", "train.py", *(f"--{k}={v}" for k, v in given.items())]
    result = subprocess.run([sys.executable, *command], cwd=ROOT, env=os.environ, capture_output=True, timeout=300)
    assert result.returncode == 0, result.stderr.decode()[-2000:]
    assert_same(one, Run.open(given["run_dir"]), 1e-5)


@pytest.mark.slow
def test_a_run_goes_on_with_another_service(
    address: str, image_folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one has gone for good; the rest of the training ends as it would have without any."""
    flags = {**FLAGS, "data": str(image_folder)}
    here = train(resolved(TrainConfig(**flags, run_dir=str(image_folder.parent / "here"))), "test")
    run_dir = str(image_folder.parent / "there")

    first = tf.data.experimental.service.DispatchServer()
    server = worker(first.target)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        raise_at_epoch_end(patch, 1, KeyboardInterrupt())
        given = {**flags, "run_dir": run_dir, "data_service": first.target, "checkpoint_minutes": 0.0}
        train(resolved(TrainConfig(**given)), "test")
    del server, first
    command = [sys.executable, "train.py", "--resume", f"--run_dir={run_dir}"]
    done = subprocess.run([*command, f"--data_service={address}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "All log messages" not in done.stderr
    assert_same(here, Run.open(run_dir), 1e-6)


def test_a_wrong_address_ends_the_training_before_it_begins(
    image_folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = image_folder.parent / "run"
    config = TrainConfig(**FLAGS, data=str(image_folder), run_dir=str(run_dir), data_service="grpc://127.0.0.1:9")
    find = service.find
    monkeypatch.setattr(service, "find", lambda address: find(address, seconds=1))
    with pytest.raises(UserError, match="does not answer"):
        train(resolved(config), "test")
    assert not run_dir.exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data_service": "localhost:5050"}, "--data_service must be grpc://HOST:PORT"),
        ({"data_service": "grpc://a:1", "deterministic": True}, "which --deterministic can't allow"),
        ({"data_service": "grpc://a:1", "cache": "memory"}, "Pass --cache=none"),
    ],
)
def test_flags_that_contradict_a_service_are_refused(given: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolved(TrainConfig(model="lenet5", **given))


def test_dispatcher_and_worker_are_started_by_a_command_each() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "data.serve"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as dispatcher:
        port = re.search(r":(\d+)\.", dispatcher.stdout.readline())[1]
        address = f"grpc://localhost:{port}"
        command = [sys.executable, "-m", "data.serve", f"--dispatcher={address}", "--host=localhost"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
            assert "for the dispatcher at localhost" in server.stdout.readline()
            service.find(address)
            server.terminate()
            assert server.wait(30) == 0
        dispatcher.terminate()
        assert dispatcher.wait(30) == 0
