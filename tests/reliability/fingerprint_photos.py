"""The data that fingerprints are taken on: photographs of stripes, a table and TFRecord files of them."""

from __future__ import annotations

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image

_OF_EACH = 30
_SHARDS = 2


def write(folder: pathlib.Path) -> None:
    """Writes `photos/` with two classes, and `table.csv` and `records/train-*` with a third; always the same bytes."""
    generator = np.random.default_rng(20)
    rows = []
    for name in ("photos/lying", "photos/upright", "more/plain"):
        (folder / name).mkdir(parents=True)
        for i in range(_OF_EACH):
            path = f"{name}/{i:02d}.{'png' if i % 5 == 0 else 'jpg'}"
            Image.fromarray(_image(generator, name.split("/")[1])).save(folder / path)
            rows.append((path, name.split("/")[1]))
    _write_records(folder / "records", [(folder / path, label) for path, label in rows])
    # The table is read with --on_bad_image=skip.
    (folder / "more" / "plain" / "broken.jpg").write_bytes((folder / rows[1][0]).read_bytes()[:300])
    rows.append(("more/plain/broken.jpg", "plain"))
    (folder / "table.csv").write_text("path,label\n" + "".join(f"{path},{label}\n" for path, label in rows))


def _image(generator: np.random.Generator, label: str) -> np.ndarray:
    height, width = generator.integers(40, 72, 2)
    rows, columns = np.mgrid[:height, :width]
    along = {"lying": rows, "upright": columns, "plain": 0 * rows}[label]
    wave = generator.uniform(40, 90) * np.sign(np.sin(along * generator.uniform(0.4, 0.9) + generator.uniform(0, 6)))
    pixels = generator.uniform(90, 160) + wave[..., np.newaxis] + generator.normal(0, 40, (height, width, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _write_records(folder: pathlib.Path, rows: list[tuple[pathlib.Path, str]]) -> None:
    import tensorflow as tf

    folder.mkdir()
    labels = sorted({label for _, label in rows})
    for shard in range(_SHARDS):
        with tf.io.TFRecordWriter(str(folder / f"train-{shard:05d}-of-{_SHARDS:05d}")) as writer:
            for path, label in rows[shard::_SHARDS]:
                feature = {"image/encoded": path.read_bytes(), "image/class/text": label.encode()}
                features = {name: _bytes(tf, value) for name, value in feature.items()}
                number = tf.train.Int64List(value=[labels.index(label)])
                features["image/class/label"] = tf.train.Feature(int64_list=number)
                example = tf.train.Example(features=tf.train.Features(feature=features))
                writer.write(example.SerializeToString())


def _bytes(tf, value: bytes):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
