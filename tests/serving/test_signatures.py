from __future__ import annotations

import pathlib
import resource
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from data.decode import decode
from data.gif import first_frame
from serving.signatures import DAMAGED, NOT_AN_IMAGE, TOO_MANY_PIXELS, decode_batch
from tests.conftest import encode, stripes

SIZE = 16
_PNG_SIZE_AT, _GIF_SIZE_AT = 16, 6


@pytest.fixture(scope="module")
def guarded():
    def call(image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return decode_batch(image_bytes, SIZE, 3)

    return tf.function(call, input_signature=[tf.TensorSpec((None,), tf.string)])


def image(form: str = "JPEG") -> bytes:
    return encode(stripes(1, upright=True), form)


def with_bytes(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


def animation(tmp_path: pathlib.Path, frames: int) -> bytes:
    first, *others = (Image.fromarray(stripes(i, upright=True)) for i in range(frames))
    first.save(tmp_path / "animation.gif", save_all=True, append_images=others, comment=b"c" * 600)
    return (tmp_path / "animation.gif").read_bytes()


BAD = {
    "empty": (b"", NOT_AN_IMAGE),
    "text": (b"hello", NOT_AN_IMAGE),
    "other format": (image("WEBP"), NOT_AN_IMAGE),
    "cut JPEG": (image()[:-200], DAMAGED),
    "JPEG start only": (b"\xff\xd8\xff", DAMAGED),
    "cut PNG": (image("PNG")[:300], DAMAGED),
    "PNG without a header": (image("PNG")[:18], DAMAGED),
    "cut GIF": (image("GIF")[:200], DAMAGED),
    "GIF without a header": (b"GIF89a", DAMAGED),
    "GIF without a frame": (image("GIF")[:13] + b"\0" * 800 + b";", DAMAGED),
    "cut BMP": (image("BMP")[:200], DAMAGED),
    "hostile PNG": (with_bytes(image("PNG"), _PNG_SIZE_AT, b"\0\0\xff\xff" * 2), TOO_MANY_PIXELS),
    "negative PNG": (with_bytes(image("PNG"), _PNG_SIZE_AT, b"\xff\xff\xff\xff" * 2), TOO_MANY_PIXELS),
    "hostile GIF": (with_bytes(image("GIF"), _GIF_SIZE_AT, b"\xff\xff" * 2), TOO_MANY_PIXELS),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_gets_its_own_error_and_its_neighbours_their_pixels(guarded, name: str) -> None:
    bad, reason = BAD[name]
    pixels, errors = guarded(tf.constant([image(), bad, image("PNG")]))
    assert errors.numpy().tolist() == [b"", reason.encode(), b""]
    np.testing.assert_array_equal(pixels[0], decode(image(), SIZE))
    np.testing.assert_array_equal(pixels[1], np.zeros((SIZE, SIZE, 3)))
    np.testing.assert_array_equal(pixels[2], decode(image("PNG"), SIZE))


def test_all_bad_ones_together(guarded) -> None:
    _, errors = guarded(tf.constant([content for content, _ in BAD.values()]))
    assert errors.numpy().tolist() == [reason.encode() for _, reason in BAD.values()]


def test_an_empty_batch(guarded) -> None:
    pixels, errors = guarded(tf.constant([], tf.string))
    assert pixels.shape == (0, SIZE, SIZE, 3) and errors.shape == (0,)


def test_a_hostile_jpeg_header(guarded) -> None:
    content = image()
    # The start-of-frame segment: marker, length, precision, then height and width.
    start = content.index(b"\xff\xc0") + 5
    _, errors = guarded(tf.constant([with_bytes(content, start, b"\xf0\0" * 2)]))
    assert errors.numpy().tolist() == [TOO_MANY_PIXELS.encode()]


def test_the_first_frame_of_an_animation(guarded, tmp_path: pathlib.Path) -> None:
    content = animation(tmp_path, 12)
    pixels, errors = guarded(tf.constant([content]))
    assert errors.numpy().tolist() == [b""]
    np.testing.assert_array_equal(pixels[0], decode(content, SIZE))


def test_an_animation_is_cut_after_its_first_frame() -> None:
    one = image("GIF")
    frame = one.index(b"\x2c\0\0\0\0")
    width, height, end = first_frame(tf.constant(one[:frame] + one[frame:-1] * 3 + b";"))
    assert (int(width), int(height), int(end)) == (40, 48, len(one) - 1)


def test_an_animation_costs_no_more_memory_than_its_first_frame(guarded) -> None:
    one = encode(np.zeros((6000, 6000), np.uint8), "GIF")
    frame = one.index(b"\x2c\0\0\0\0")
    # 40 frames of 36 MB each: TensorFlow alone would take 1.4 GB for this file of 1.1 MB.
    bomb = one[:frame] + one[frame:-1] * 40 + b";"
    guarded(tf.constant([one]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, errors = guarded(tf.constant([bomb]))
    assert errors.numpy().tolist() == [b""]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


def test_a_gif_of_endless_small_blocks_is_given_up_soon(guarded) -> None:
    content = image("GIF")
    frame = content.index(b"\x2c\0\0\0\0")
    endless = content[:frame] + b"\x21\xfe" + b"\x01x" * 2_000_000 + b"\0" + content[frame:]
    start = time.process_time()
    _, errors = guarded(tf.constant([endless]))
    assert errors.numpy().tolist() == [DAMAGED.encode()]
    assert time.process_time() - start < 20


def test_real_awkward_files(guarded, shared: pathlib.Path) -> None:
    paths = sorted(path for path in (shared / "data" / "odd").iterdir() if path.is_file())
    pixels, errors = guarded(tf.constant([path.read_bytes() for path in paths]))
    assert [path.name for path, error in zip(paths, errors.numpy(), strict=True) if error] == [
        "matlab_file_among_images.mat"
    ]
    for path, row, error in zip(paths, pixels, errors.numpy(), strict=True):
        if not error:
            np.testing.assert_array_equal(row, decode(path.read_bytes(), SIZE))
