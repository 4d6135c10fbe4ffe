"""Ten epochs of a new head on a frozen ResNet50: ours, plain Keras, and one bare forward pass.

`python -m benchmarks.frozen --data=cat_dog/`; `--images=N` takes N images per class, for a machine without a GPU.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile

from absl import flags

import cli
import errors
import startup

_SIZE = 224
_BATCH = 32

flags.DEFINE_string("data", "cat_dog", "Folder with one sub-folder per class.")
flags.DEFINE_integer("images", None, "Images per class. Default: all.")
flags.DEFINE_integer("epochs", 10, "Number of training epochs.")
flags.DEFINE_integer("repeats", 1, "Repeats of each measurement; the median counts.")
flags.DEFINE_string("json", None, "File for the figures.")


def main(argv: list[str]) -> None:
    """Prints one table; all contestants use the same images and a ResNet50 with random weights."""
    if not os.path.isdir(flags.FLAGS.data):
        raise errors.UserError(f"--data must be a folder of classes. Received: --data={flags.FLAGS.data}.")
    startup.load_tensorflow()
    from benchmarks.table import as_markdown, machine, measure_side_by_side, seconds_of, write_json

    with tempfile.TemporaryDirectory() as folder:
        data = _some_images(flags.FLAGS.data, folder, flags.FLAGS.images)
        weights = _random_weights(folder)
        contestants = {
            "ours, first run": lambda: seconds_of(lambda: _ours(data, weights, folder, forget=True)),
            "ours, second run": lambda: seconds_of(lambda: _ours(data, weights, folder, forget=False)),
            "plain Keras": lambda: seconds_of(lambda: _plain_keras(data)),
            "one bare forward pass": lambda: _bare_forward(data),
        }
        rows = measure_side_by_side(contestants, flags.FLAGS.repeats)
        count = len(_images(data))
    print(" | ".join(machine().values()), "\n")
    title = f"{flags.FLAGS.epochs} epochs, frozen ResNet50, {count:,} images"
    print(as_markdown(title, "seconds", rows, compare="ours, first run"))
    if flags.FLAGS.json:
        write_json(flags.FLAGS.json, {title: rows})


def _ours(data: str, weights: str, folder: str, *, forget: bool) -> None:
    """A whole training as in train.py: scan, split, features, head, test, files."""
    from training.config import TrainConfig
    from training.resolve import resolved
    from training.trainer import train

    os.environ["XDG_CACHE_HOME"] = os.path.join(folder, "cache")
    run_dir = os.path.join(folder, "run")
    shutil.rmtree(run_dir, ignore_errors=True)
    if forget:
        shutil.rmtree(os.environ["XDG_CACHE_HOME"], ignore_errors=True)
    given = TrainConfig(
        model="resnet50", data=data, weights=weights, freeze=True, epochs=flags.FLAGS.epochs, run_dir=run_dir
    )
    train(resolved(given), command="")


def _plain_keras(data: str) -> None:
    """As in the Keras guide to transfer learning: the frozen base is in the model and runs in each epoch."""
    import keras

    arguments = {
        "image_size": (_SIZE, _SIZE),
        "batch_size": _BATCH,
        "validation_split": 0.2,
        "seed": 0,
        "verbose": False,
    }
    train = keras.utils.image_dataset_from_directory(data, subset="training", **arguments)
    val = keras.utils.image_dataset_from_directory(data, subset="validation", **arguments)
    base = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(_SIZE, _SIZE, 3))
    base.trainable = False
    pixels = keras.Input((_SIZE, _SIZE, 3))
    features = base(keras.applications.resnet50.preprocess_input(pixels), training=False)
    logits = keras.layers.Dense(1)(keras.layers.GlobalAveragePooling2D()(features))
    model = keras.Model(pixels, logits)
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.BinaryCrossentropy(from_logits=True))
    model.fit(train.prefetch(2), validation_data=val.prefetch(2), epochs=flags.FLAGS.epochs, verbose=0)


def _bare_forward(data: str) -> float:
    """Seconds of the forward pass alone over all images, decoded beforehand."""
    import tensorflow as tf

    import models
    from benchmarks.table import seconds_of
    from data import folder
    from data.batches import Batches
    from data.cache import keep_decoded
    from data.validation import validate
    from training import features

    table = keep_decoded(Batches(validate(folder.load(data)), image_size=_SIZE), "memory")
    front, _ = features.cut(models.build("resnet50", 2, transfer=True))
    forward = tf.function(lambda pixels: front(pixels, training=False), reduce_retracing=True)
    pixels = tf.convert_to_tensor(table.inputs)
    forward(pixels[:_BATCH])
    return seconds_of(lambda: [forward(pixels[i : i + _BATCH]) for i in range(0, len(table), _BATCH)][-1].numpy())


def _random_weights(folder: str) -> str:
    import keras

    import models

    keras.utils.set_random_seed(0)
    path = os.path.join(folder, "random.weights.h5")
    models.build("resnet50", 2, transfer=True).save_weights(path)
    return path


def _images(data: str) -> list[pathlib.Path]:
    return sorted(path for path in pathlib.Path(data).glob("*/*") if path.is_file())


def _some_images(data: str, folder: str, count: int | None) -> str:
    if count is None:
        return data
    target = pathlib.Path(folder, "images")
    for name in sorted({path.parent.name for path in _images(data)}):
        (target / name).mkdir(parents=True)
        for image in [path for path in _images(data) if path.parent.name == name][:count]:
            os.symlink(image.resolve(), target / name / image.name)
    return str(target)


if __name__ == "__main__":
    cli.run(main)
