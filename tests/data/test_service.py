"""Batches made by a `tf.data` service in this process: a dispatcher and two workers."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf

from data import load, service
from data.batches import Batches, Shard
from data.service_address import host_and_port
from errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]


def worker(dispatcher: str) -> tf.data.experimental.service.WorkerServer:
    config = tf.data.experimental.service.WorkerConfig(dispatcher.removeprefix("grpc://"), heartbeat_interval_ms=100)
    return tf.data.experimental.service.WorkerServer(config)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A service with two workers."""
    dispatcher = tf.data.experimental.service.DispatchServer()
    workers = [worker(dispatcher.target) for _ in range(2)]
    yield dispatcher.target
    del workers


@pytest.fixture
def batches(image_folder: pathlib.Path) -> Batches:
    """Forty images, each with its own number as its label."""
    dataset = load(str(image_folder))
    dataset.labels[:] = np.arange(40)
    return Batches(dataset, image_size=16, batch_size=8, seed=5)


def by_image(batches: tf.data.Dataset) -> dict[int, np.ndarray]:
    """The pixels of every image; each must come once."""
    rows = [
        (int(label), pixels) for batch in batches.as_numpy_iterator() for pixels, label in zip(*batch[:2], strict=True)
    ]
    assert len(rows) == len(dict(rows))
    return dict(rows)


def test_every_image_comes_once_and_looks_as_without_a_service(address: str, batches: Batches) -> None:
    local = dataclasses.replace(batches, batch_size=7, augment="full")
    here, there = (by_image(each.training(3, 4)) for each in (local, dataclasses.replace(local, service=address)))
    assert here.keys() == there.keys() == set(range(40))
    assert all(np.array_equal(here[label], there[label]) for label in here)


def test_trainings_on_several_devices_share_the_images(address: str, batches: Batches) -> None:
    shards = [Shard(4, 0, 2), Shard(4, 2, 2)]
    made = [dataclasses.replace(batches, shard=shard, service=address).training(1, 2) for shard in shards]
    slices = [by_image(each) for each in made]
    assert sorted([*slices[0], *slices[1]]) == list(range(40))


def test_the_rest_of_an_epoch_can_be_made(address: str, batches: Batches) -> None:
    rest = dataclasses.replace(batches, service=address).training(1, 2, first_step=3)
    assert by_image(rest).keys() == by_image(batches.training(1, 2, first_step=3)).keys()


def test_epochs_are_asked_for_one_by_one(address: str, batches: Batches) -> None:
    """The batches of two would run together."""
    with pytest.raises(ValueError, match="batches must be of one epoch"):
        dataclasses.replace(batches, service=address).training(1, 3)


def test_a_service_is_found(address: str) -> None:
    service.find(address)


@pytest.mark.parametrize("address", ["localhost:5050", "grpc://localhost", "grpc://a b:1", "http://a:1", "grpc://a:0"])
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(UserError, match="must be grpc://HOST:PORT"):
        host_and_port(address)


def test_an_address_where_nobody_answers_is_refused_in_time() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(UserError, match="does not answer.*data.serve"):
            service.find(f"grpc://127.0.0.1:{taken.getsockname()[1]}", seconds=1.5)


def test_something_else_that_listens_is_refused_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(UserError, match="does not answer"):
            service.find(f"grpc://127.0.0.1:{silent.getsockname()[1]}", seconds=1.5)


def test_a_dispatcher_without_workers_is_refused() -> None:
    dispatcher = tf.data.experimental.service.DispatchServer()
    with pytest.raises(UserError, match="it has no worker"):
        service.find(dispatcher.target, seconds=1)


_LOSING = """
import sys
import tensorflow as tf
from tensorflow.python.data.experimental.ops import testing
from data import service
from tests.data.test_service import worker

def slowly(step):
    return tf.data.Dataset.from_tensors(step).apply(testing.sleep(50_000))

batches = tf.data.Dataset.range(10**6).interleave(slowly, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)

dispatcher = tf.data.experimental.service.DispatchServer()
workers = [worker(dispatcher.target) for _ in range(2)]
with service.watched(dispatcher.target, seconds=2):
    for number, _ in enumerate(service.distributed(batches, dispatcher.target)):
        if number == 20:
            {stop}
"""


@pytest.mark.parametrize(
    ("stop", "problem"),
    [
        ("workers[0]._stop(); workers[1]._stop(); dispatcher._stop()", "does not answer"),
        ("workers[1]._stop()", "reached"),
    ],
)
def test_a_service_that_is_lost_ends_the_training(stop: str, problem: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", _LOSING.format(stop=stop)]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 138, result.stderr[-2000:]
    assert "is lost" in result.stderr and problem in result.stderr and "--resume" in result.stderr


def test_missing_batches_are_explained(address: str) -> None:
    short = tf.data.Dataset.range(3).apply(tf.data.experimental.assert_cardinality(4))
    with pytest.raises(service.ServiceLostError, match="batches of an epoch are missing"), service.watched(address):
        list(short)
