"""The cost of serving: `python -m benchmarks.serving`.

In process: the exported graph against the bare model call. Over the wire, if TensorFlow Serving is found on this
machine: latency and throughput for several clients.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import requests
import tensorflow as tf
from absl import flags

import cli
import errors
import models
from benchmarks import local_server, table
from data.decode import decode
from data.folder import load as load_folder
from serving import client, export, wire
from serving.publish import publish
from serving.transport import Grpc, Patience, Rest, Target, request_body
from serving.wire import Metadata

_ROUNDS = 15
_NUM_IMAGES = 64
_SIZE_PX = (374, 440)

Ask = Callable[[int], None]


def define_flags() -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_enum("model", "resnet50", sorted(models.REGISTRY), "Network, with random weights.")
    flags.DEFINE_string("images", None, "Folder of JPEGs with a sub-folder per class. Default: synthetic images.")
    flags.DEFINE_integer("batch_size", 8, "Images per call in process, 1 or more.", lower_bound=1)
    flags.DEFINE_list("clients", ["1", "8", "32"], "Numbers of clients that ask at the same time.")
    flags.DEFINE_float("seconds", 8.0, "Seconds for each row over the wire, above 0.", lower_bound=0.1)


def main(argv: list[str]) -> None:
    """Prints two tables, and a third if there is a server."""
    options = flags.FLAGS
    spec = models.find(options.model)
    model = models.build(options.model, 2)
    images = read_images(options.images)
    about = Metadata(options.model, ("cat", "dog"), spec.image_size, spec.channels, spec.heads)
    with tempfile.TemporaryDirectory() as base:
        path = publish(lambda folder: export.save(model, folder, about), base)
        loaded = tf.saved_model.load(path)
        batch = (images * options.batch_size)[: options.batch_size]
        print(f"{options.model}, {spec.image_size} px, batch {len(batch)}, in process ({_ROUNDS} rounds):\n")
        print(table.as_text(in_process(model, loaded, batch, about)), flush=True)
        print(f"\nOne request of one image (median of {len(images)}):\n")
        print(table.as_text(request_sizes(images, about)), flush=True)
        if local_server.find() is None:
            print(f"\nNothing was measured over the wire: {local_server.NONE_FOUND}.")
            return
        clients = [int(count) for count in options.clients]
        rows = [
            {"server": name, **row}
            for name, addresses in _servers(base)
            for row in over_the_wire(addresses, images, about, clients, options.seconds)
        ]
        print("\nOver the wire, one image per request:\n")
        print(table.as_text(rows))


def read_images(folder: str | None) -> list[bytes]:
    """JPEGs from `folder`, or synthetic ones with the size and detail of a small photograph."""
    if folder:
        dataset = load_folder(folder)
        chosen = np.linspace(0, len(dataset) - 1, min(_NUM_IMAGES, len(dataset))).astype(int)
        return [dataset.encoded(i) for i in chosen]
    generator = np.random.default_rng(0)
    height, width = _SIZE_PX
    made = []
    for _ in range(_NUM_IMAGES):
        coarse = tf.image.resize(generator.uniform(0, 255, (12, 14, 3)), _SIZE_PX, method="bicubic")
        pixels = coarse + generator.normal(0, 9, (height, width, 3))
        made.append(tf.io.encode_jpeg(tf.saturate_cast(pixels, tf.uint8), quality=90).numpy())
    return made


def in_process(model: keras.Model, loaded: Any, batch: Sequence[bytes], about: Metadata) -> list[table.Cells]:
    """Time of the bare model and of the exported graph, measured in turns so that all see the same noise.

    CPU time counts all threads, and varies less than wall-clock time when other programs run.
    """
    image_bytes = tf.constant(list(batch))
    pixels = tf.stack([decode(image, about.image_size, about.channels) for image in batch])
    floats = tf.cast(pixels, tf.float32)
    bare = tf.function(lambda x: model(x, training=False))
    calls = {
        "model(x), compiled by tf.function": lambda: bare(floats),
        "signature pixels": lambda: loaded.signatures["pixels"](pixels=pixels),
        "signature serving_default, JPEG bytes": lambda: loaded.signatures["serving_default"](image_bytes=image_bytes),
        "model(x), eager": lambda: model(floats, training=False),
    }
    return _compared(_timed(calls))


def _timed(calls: dict[str, Callable[[], Any]]) -> dict[str, np.ndarray]:
    """Wall-clock and CPU seconds, an array (rounds, 2) for each call."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for round_ in range(_ROUNDS + 2):
        for name, call in calls.items():
            start = time.perf_counter(), time.process_time()
            call()
            # The first two rounds trace, allocate and choose algorithms.
            if round_ >= 2:
                times[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return {name: np.array(values) for name, values in times.items()}


def _compared(times: dict[str, np.ndarray]) -> list[table.Cells]:
    """A row per call, compared with the first one."""
    wall = {name: values[:, 0] for name, values in times.items()}
    cpu = {name: float(np.median(values[:, 1])) for name, values in times.items()}
    first = next(iter(times))
    return [
        {
            "call": name,
            "best ms": 1000 * float(wall[name].min()),
            "median ms": 1000 * float(np.median(wall[name])),
            "over bare % (best)": 100 * float(wall[name].min() / wall[first].min() - 1),
            "CPU ms": 1000 * cpu[name],
            "over bare % (CPU)": 100 * (cpu[name] / cpu[first] - 1),
        }
        for name in times
    ]


def request_sizes(images: Sequence[bytes], about: Metadata) -> list[table.Cells]:
    """Size of a request in kB in four forms, and relative to the JPEG file."""
    ways = {
        "gRPC, JPEG bytes": lambda image: wire.predict_request(
            "darkroom", "serving_default", "image_bytes", [image]
        ).SerializeToString(),
        "HTTP, JPEG bytes in base64": lambda image: request_body("serving_default", "image_bytes", [image]),
        "HTTP, pixels as JSON integers": lambda image: pixels_body(image, about, np.uint8),
        "HTTP, pixels as JSON floats": lambda image: pixels_body(image, about, np.float32),
    }
    files = float(np.median([len(image) for image in images]))
    rows: list[table.Cells] = [{"form": "the JPEG file", "kB": files / 1000, "of the file": 1.0}]
    for name, make in ways.items():
        size = float(np.median([len(make(image)) for image in images]))
        rows.append({"form": name, "kB": size / 1000, "of the file": size / files})
    return rows


def pixels_body(image: bytes, about: Metadata, kind: type) -> bytes:
    """A request to the `pixels` signature as JSON numbers: uint8 in 0-255, or floats in 0-1, as is common."""
    pixels = decode(image, about.image_size, about.channels).numpy().astype(kind)
    values = pixels.tolist() if kind is np.uint8 else (pixels / np.float32(255)).astype(float).tolist()
    return json.dumps({"signature_name": "pixels", "instances": [values]}, separators=(",", ":")).encode()


def over_the_wire(
    addresses: tuple[str, str], images: list[bytes], about: Metadata, clients: list[int], seconds: float
) -> Iterator[table.Cells]:
    """Latency in ms and images per second for each kind of request and each number of clients."""
    for name, make in _ways(addresses, images, about).items():
        for count in clients:
            with make() as ask:
                ask(0)
                latencies, took = _load(ask, count, seconds)
            p50, p95, p99 = (1000 * float(value) for value in np.percentile(latencies, (50, 95, 99)))
            row = {"p50 ms": p50, "p95 ms": p95, "p99 ms": p99, "images/s": len(latencies) / took}
            yield {"way": name, "clients": count, **row}


def _ways(
    addresses: tuple[str, str], images: list[bytes], about: Metadata
) -> dict[str, Callable[[], contextlib.AbstractContextManager[Ask]]]:
    patience = Patience(120.0)
    bodies = [pixels_body(image, about, np.uint8) for image in images]

    @contextlib.contextmanager
    def grpc_bytes() -> Iterator[Ask]:
        transport = Grpc(Target(addresses[0], "darkroom"))
        yield lambda i: _check(client.classify(transport, [images[i % len(images)]], patience))

    @contextlib.contextmanager
    def rest_bytes() -> Iterator[Ask]:
        transport = Rest(Target(addresses[1], "darkroom"), connections=64)
        yield lambda i: _check(client.classify(transport, [images[i % len(images)]], patience))

    @contextlib.contextmanager
    def rest_numbers() -> Iterator[Ask]:
        url = f"http://{addresses[1]}/v1/models/darkroom:predict"
        with requests.Session() as session:
            session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=64))
            yield lambda i: session.post(url, data=bodies[i % len(bodies)], timeout=120).raise_for_status()

    return {"gRPC, JPEG bytes": grpc_bytes, "HTTP, JPEG bytes": rest_bytes, "HTTP, JSON integers": rest_numbers}


def _check(answers: list[client.Answer]) -> None:
    if any(answer.error for answer in answers):
        raise errors.UserError(f"Every image must be answered. Received: {answers[0].error}")


def _load(ask: Ask, clients: int, seconds: float) -> tuple[list[float], float]:
    """Latencies of all requests of `clients` threads that ask without pause, and the total time, both in seconds."""
    latencies: list[float] = []
    start = time.perf_counter()

    def client(number: int) -> None:
        i = number
        while time.perf_counter() < start + seconds:
            asked = time.perf_counter()
            ask(i)
            latencies.append(time.perf_counter() - asked)
            i += clients

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return latencies, time.perf_counter() - start


def _servers(base: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """TensorFlow Serving without and with batching, one running at a time."""
    for batching in (False, True):
        with local_server.running(base, batching=batching) as addresses:
            yield f"TF Serving, batching {'on' if batching else 'off'}", addresses


if __name__ == "__main__":
    define_flags()
    cli.run(main)
