from __future__ import annotations

import functools
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from data.decode import decode
from tests.conftest import encode, stripes


def gradient(height: int, width: int) -> np.ndarray:
    """A smooth image, which any good filter keeps."""
    rows, columns = np.mgrid[:height, :width]
    channels = [255 * rows / height, 255 * columns / width, np.full((height, width), 60.0)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def in_pipeline(encoded: bytes, image_size: int, channels: int) -> np.ndarray:
    dataset = tf.data.Dataset.from_tensors(encoded).map(lambda b: decode(b, image_size, channels))
    return next(iter(dataset)).numpy()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_format_gives_the_image(form: str, channels: int) -> None:
    pixels = in_pipeline(encode(gradient(64, 96), form), 32, channels)
    wanted = np.asarray(Image.fromarray(gradient(64, 96)).resize((32, 32), Image.Resampling.BOX), np.float32)
    if channels == 1:
        wanted = (wanted @ np.asarray([0.299, 0.587, 0.114]))[..., np.newaxis]
    assert pixels.dtype == np.uint8
    assert pixels.shape == (32, 32, channels)
    # A GIF has 256 colors and a JPEG is lossy.
    assert np.abs(pixels - wanted).mean() < (8 if form == "GIF" else 2)


def test_eager_and_pipeline_agree() -> None:
    encoded = encode(stripes(0, upright=True, size=(90, 130)))
    np.testing.assert_array_equal(decode(tf.constant(encoded), 40).numpy(), in_pipeline(encoded, 40, 3))


def test_an_image_of_the_right_size_is_not_touched() -> None:
    pixels = stripes(0, upright=True, size=(48, 48))
    np.testing.assert_array_equal(in_pipeline(encode(pixels, "PNG"), 48, 3), pixels)


@pytest.mark.parametrize("factor", [2, 4, 8, 16])
def test_fine_detail_of_a_large_image_is_averaged_and_not_sampled(factor: int) -> None:
    """One-pixel stripes of 0 and 255 are gray from afar; a filter that skips pixels would show stripes."""
    size = 32 * factor
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[:, ::2] = 255
    shrunk = in_pipeline(encode(pixels), 32, 3)
    assert np.abs(shrunk.astype(float) - 127.5).max() < 8


@functools.cache
def shrinker(image_size: int) -> tf.types.experimental.PolymorphicFunction:
    """One graph for many files."""
    return tf.function(lambda encoded: decode(encoded, image_size), input_signature=[tf.TensorSpec((), tf.string)])


def lines(side: int, *, upright: bool) -> np.ndarray:
    """Stripes of one pixel, the finest detail that there can be."""
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[(slice(None), slice(0, None, 2)) if upright else slice(0, None, 2)] = 255
    return pixels


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP"])
@pytest.mark.parametrize("factor", [2, 2.25, 2.5, 3, 3.5, 5])
@pytest.mark.parametrize("upright", [True, False])
def test_nothing_aliases(form: str, factor: float, upright: bool) -> None:
    """Without a low-pass filter the stripes come back as wider ones: at a third of the size in full contrast."""
    shrunk = shrinker(32)(encode(lines(int(32 * factor), upright=upright), form)).numpy()
    assert shrunk.std() < 20
    assert shrunk.mean() == pytest.approx(127.5, abs=3)


@pytest.mark.parametrize("form", ["PNG", "BMP"])
@pytest.mark.parametrize("size", [(48, 40), (64, 96), (70, 81), (96, 96), (90, 300), (200, 33)])
def test_shrinking_without_loss_is_what_pillow_does(form: str, size: tuple[int, int]) -> None:
    """Its bilinear filter is a triangle as wide as the reduction, in whole numbers where ours has fractions."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    wanted = np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR), float)
    assert np.abs(shrinker(32)(encode(pixels, form)).numpy() - wanted).max() <= 1


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_long_strip_is_averaged_too(form: str) -> None:
    pixels = np.zeros((40, 640, 3), np.uint8)
    pixels[:, ::2] = 255
    assert np.abs(in_pipeline(encode(pixels, form), 32, 3).astype(float) - 127.5).max() < 8


def test_gray_and_transparent_and_16_bit_images() -> None:
    gray = np.full((20, 20), 77, np.uint8)
    np.testing.assert_array_equal(in_pipeline(encode(gray, "PNG"), 20, 3), 77)
    np.testing.assert_array_equal(in_pipeline(encode(gray, "BMP"), 20, 3), 77)
    rgba = np.full((20, 20, 4), (10, 20, 30, 0), np.uint8)
    np.testing.assert_array_equal(in_pipeline(encode(rgba, "PNG"), 20, 3), np.broadcast_to((10, 20, 30), (20, 20, 3)))
    deep = np.full((20, 20), 77 * 257, np.uint16)
    np.testing.assert_array_equal(in_pipeline(encode(deep, "PNG"), 20, 3), 77)


def test_cmyk_jpeg() -> None:
    file = io.BytesIO()
    Image.new("CMYK", (20, 20), (0, 255, 255, 0)).save(file, "JPEG")
    red = in_pipeline(file.getvalue(), 20, 3).mean(axis=(0, 1))
    assert red[0] > 200 and red[1] < 60 and red[2] < 60


def test_the_first_frame_of_an_animation_counts() -> None:
    file = io.BytesIO()
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(in_pipeline(file.getvalue(), 20, 3)[0, 0], (255, 0, 0))


@pytest.mark.parametrize("keep", [0, 10, 0.5, -20])
def test_half_a_file_is_refused(keep: float) -> None:
    encoded = encode(stripes(0, upright=True, size=(90, 130)))
    cut = encoded[: int(len(encoded) * keep)] if 0 < keep < 1 else encoded[: int(keep)]
    with pytest.raises(tf.errors.InvalidArgumentError):
        in_pipeline(cut, 40, 3)
