"""Images per second from JPEG files to batches: ours, plain Keras, torchvision, and the decoder alone.

`python -m benchmarks.input_pipeline --data=cat_dog/`
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

from absl import flags

import cli
import errors
import startup

_SIZE = 224
_BATCH = 32
# Epochs over cached images, which take a fraction of a second each.
_MANY = 20

flags.DEFINE_string("data", "cat_dog", "Folder with one sub-folder per class.")
flags.DEFINE_integer("repeats", 3, "Repeats of each measurement; the median counts.")
flags.DEFINE_integer("large", 48, "Number of 12-megapixel photographs to make by enlarging.")
flags.DEFINE_string("json", None, "File for the figures.")


def main(argv: list[str]) -> None:
    """Prints four tables: cold, 12 megapixels, augmented, and from the second epoch on."""
    if not os.path.isdir(flags.FLAGS.data):
        raise errors.UserError(f"--data must be a folder of classes. Received: --data={flags.FLAGS.data}.")
    startup.load_tensorflow()
    from benchmarks.table import as_markdown, machine, write_json

    print(" | ".join(machine().values()), "\n")
    tables = {}
    with tempfile.TemporaryDirectory() as folder:
        large = _enlarge(flags.FLAGS.data, folder, flags.FLAGS.large)
        for title, rows, compare in (
            ("Cold: JPEG files to 224 px batches", _cold(flags.FLAGS.data, passes=6), "plain Keras"),
            ("Cold, 12-megapixel JPEG files", _cold(large, passes=12), "plain Keras"),
            ("Full augmentation of decoded images", _augmented(flags.FLAGS.data), "stock Keras layers"),
            ("From the second epoch on", _cached(flags.FLAGS.data), "ours, cold"),
        ):
            tables[title] = rows
            print(as_markdown(title, "images per second", rows, compare=compare), flush=True)
    if flags.FLAGS.json:
        write_json(flags.FLAGS.json, tables)


def _cold(data: str, passes: int) -> list[Any]:
    """Decoding and resizing, `passes` times; the upper limits are TensorFlow's JPEG decoder alone, at two scales."""
    import keras
    import tensorflow as tf

    from benchmarks.table import measure_side_by_side
    from data import folder
    from data.batches import Batches

    dataset = folder.load(data)

    def decode_only(scale: int) -> float:
        files = tf.data.Dataset.from_tensor_slices(dataset.records).repeat(passes)

        def decode(file: tf.Tensor) -> tf.Tensor:
            return tf.io.decode_jpeg(tf.io.read_file(file), channels=3, ratio=scale)

        return _rate(files.map(decode, num_parallel_calls=tf.data.AUTOTUNE), 1)

    def plain_keras() -> float:
        batches = keras.utils.image_dataset_from_directory(
            data, image_size=(_SIZE, _SIZE), batch_size=_BATCH, verbose=False
        )
        return _rate(batches.repeat(passes))

    def ours() -> float:
        return _epochs(Batches(dataset, image_size=_SIZE, batch_size=_BATCH), passes)

    contestants = {
        "ours": ours,
        "plain Keras": plain_keras,
        "the decoder alone": lambda: decode_only(1),
        "the decoder alone, at 1/8 scale": lambda: decode_only(8),
    }
    loader = _torchvision_loader(data, augmented=False)
    if loader:
        contestants["torchvision, 2 workers"] = lambda: _rate(batch for _ in range(passes) for batch in loader())
    return measure_side_by_side(contestants, flags.FLAGS.repeats)


def _augmented(data: str) -> list[Any]:
    """The transformations of `--augment=full`, on decoded images, and on files as torchvision does in each epoch."""
    import keras
    import tensorflow as tf

    from benchmarks.table import measure_side_by_side

    table = _decoded(data)
    stock = keras.Sequential(
        [
            keras.layers.RandomZoom((-0.1, 0.0)),
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomRotation(10 / 360),
            keras.layers.RandomColorJitter(
                value_range=(0, 255),
                brightness_factor=0.2,
                contrast_factor=0.2,
                saturation_factor=(0.4, 0.6),
                hue_factor=0.05,
            ),
        ]
    )

    def stock_layers() -> float:
        decoded = tf.data.Dataset.from_tensor_slices(table.inputs).batch(_BATCH)
        views = decoded.map(lambda x: stock(tf.cast(x, tf.float32), training=True), num_parallel_calls=tf.data.AUTOTUNE)
        return _rate(views.prefetch(tf.data.AUTOTUNE).take(20))

    def ours(batches: Any) -> float:
        return _rate(dataclasses.replace(batches, augment="full").training(0, 2))

    contestants = {
        "ours": lambda: ours(table),
        "stock Keras layers": stock_layers,
        "ours, from files": lambda: ours(_files(data)),
    }
    loader = _torchvision_loader(data, augmented=True)
    if loader:
        contestants["torchvision, 2 workers, from files"] = lambda: _rate(loader())
    return measure_side_by_side(contestants, flags.FLAGS.repeats)


def _cached(data: str) -> list[Any]:
    from benchmarks.table import measure_side_by_side
    from data.cache import keep_decoded

    files = _files(data)
    tables = {mode: keep_decoded(files, mode) for mode in ("memory", "disk")}
    contestants: dict[str, Callable[[], float]] = {
        f"ours, {mode}": functools.partial(_epochs, batches, _MANY) for mode, batches in tables.items()
    }
    contestants["ours, cold"] = functools.partial(_epochs, files, 1)
    return measure_side_by_side(contestants, flags.FLAGS.repeats)


def _epochs(batches: Any, epochs: int) -> float:
    return _rate(batches.training(0, epochs))


def _files(data: str) -> Any:
    from data import folder
    from data.batches import Batches
    from data.validation import validate

    return Batches(validate(folder.load(data), "skip"), image_size=_SIZE, batch_size=_BATCH)


def _decoded(data: str) -> Any:
    from data.cache import keep_decoded

    return keep_decoded(_files(data), "memory")


def _rate(batches: Iterable, images_each: int | None = None) -> float:
    """Images per second over all of `batches`."""
    import time

    count = 0
    start = time.perf_counter()
    for batch in batches:
        first = batch[0] if isinstance(batch, tuple | list) else batch
        count += images_each or len(first)
    return count / (time.perf_counter() - start)


def _torchvision_loader(data: str, *, augmented: bool) -> Any:
    """A function that makes torchvision's loader as in its documentation; None if it isn't installed."""
    try:
        import torch
        from torchvision import datasets, transforms
    except ImportError:
        return None
    steps = [transforms.Resize((_SIZE, _SIZE))]
    if augmented:
        steps = [
            transforms.RandomResizedCrop(_SIZE, scale=(0.8, 1.0), ratio=(0.9, 1.1)),
            transforms.RandomHorizontalFlip(),
            transforms.RandomRotation(10),
            transforms.ColorJitter(0.2, 0.2, 0.2, 0.05),
        ]
    images = datasets.ImageFolder(data, transforms.Compose([*steps, transforms.ToTensor()]))
    return lambda: torch.utils.data.DataLoader(images, batch_size=_BATCH, shuffle=True, num_workers=2)


def _enlarge(data: str, folder: str, count: int) -> str:
    """Makes `count` 12-megapixel JPEG files from the images of all classes."""
    from PIL import Image

    for number, image in enumerate(sorted(pathlib.Path(data).glob("*/*.jpg"))[:: max(1, 2400 // count)][:count]):
        target = pathlib.Path(folder, ("a", "b")[number % 2], f"{number}.jpg")
        target.parent.mkdir(exist_ok=True)
        Image.open(image).convert("RGB").resize((4000, 3000)).save(target, quality=90)
    return folder


if __name__ == "__main__":
    cli.run(main)
