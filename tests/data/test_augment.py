from __future__ import annotations

import colorsys

import keras
import numpy as np
import pytest
import tensorflow as tf

from data.augment import RandomColor, RandomGeometry, augmented, layers

MIDDLE = 0.5
FLIPPED, UPRIGHT = 0.0, 0.9
SEED = np.asarray([3, 4], np.int64)


def image(size: int = 16, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(40, 200, (1, size, size, channels)).astype(np.uint8)


def geometry(layer: RandomGeometry, pixels: np.ndarray, **draws: float) -> np.ndarray:
    names = ("area", "aspect", "left", "top", "flip", "turn")
    neutral = {"area": 1.0, "aspect": MIDDLE, "left": MIDDLE, "top": MIDDLE, "flip": UPRIGHT, "turn": MIDDLE}
    row = [neutral[name] if name not in draws else draws[name] for name in names]
    return layer(tf.constant(pixels), tf.constant([row], tf.float32)).numpy()


def test_neutral_draws_change_nothing() -> None:
    np.testing.assert_allclose(geometry(RandomGeometry(), image()), image(), atol=1e-2)
    neutral = tf.fill((1, 4), 0.5)
    np.testing.assert_allclose(RandomColor()(image(), neutral), image(), atol=0.1)


def test_flip_is_the_mirror_image() -> None:
    np.testing.assert_allclose(
        geometry(RandomGeometry(flips=True), image(), flip=FLIPPED), image()[:, :, ::-1], atol=1e-2
    )
    np.testing.assert_allclose(geometry(RandomGeometry(), image(), flip=FLIPPED), image(), atol=1e-2)


@pytest.mark.parametrize(("left", "top"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_crop_shows_the_corner_at_the_right_scale(left: int, top: int) -> None:
    """A quarter of the area, from each corner, is that quarter enlarged twice."""
    pixels = np.kron(np.arange(16).reshape(1, 4, 4, 1) * 10.0, np.ones((1, 8, 8, 1))).astype(np.uint8)
    pixels = np.repeat(pixels, 3, axis=-1)
    layer = RandomGeometry(smallest_area=0.25)
    cropped = geometry(layer, pixels, area=0.0, left=left, top=top)
    quarter = pixels[:, 16 * top : 16 * top + 16, 16 * left : 16 * left + 16]
    enlarged = tf.image.resize(quarter, (32, 32)).numpy()
    # Beyond the crop's own border ours sees the image go on, the reference repeats the edge.
    np.testing.assert_allclose(cropped[:, 2:-2, 2:-2], enlarged[:, 2:-2, 2:-2], atol=0.1)


def test_rotation_by_a_quarter_turns_the_image() -> None:
    layer = RandomGeometry(smallest_area=1.0, largest_aspect=1.0, largest_rotation_degrees=90.0)
    turned = geometry(layer, image(), turn=1.0)
    assert any(np.allclose(turned[0], np.rot90(image()[0], k), atol=0.1) for k in (1, 3))


def test_brightness_scales_all_channels() -> None:
    brighter = RandomColor(strength=0.2)(image(), tf.constant([[1.0, 0.5, 0.5, 0.5]]))
    np.testing.assert_allclose(brighter, image() * 1.2, atol=0.1)


def test_contrast_keeps_the_mean_luma() -> None:
    luma = np.asarray([0.299, 0.587, 0.114])
    changed = RandomColor(strength=0.2)(image(), tf.constant([[0.5, 1.0, 0.5, 0.5]])).numpy()
    assert (changed @ luma).mean() == pytest.approx((image() @ luma).mean(), abs=0.1)
    assert (changed @ luma).std() == pytest.approx(1.2 * (image() @ luma).std(), rel=1e-3)


def test_saturation_and_hue_leave_gray_alone() -> None:
    gray = np.full((1, 4, 4, 3), 90, np.uint8)
    changed = RandomColor()(gray, tf.constant([[0.5, 0.5, 1.0, 0.0]]))
    np.testing.assert_allclose(changed, gray, atol=0.2)


def test_hue_turns_the_color_circle_by_the_stated_share() -> None:
    red = np.full((1, 2, 2, 3), (180, 80, 80), np.uint8)
    turned = RandomColor(hue=0.05)(red, tf.constant([[0.5, 0.5, 0.5, 1.0]])).numpy()[0, 0, 0]
    hue = colorsys.rgb_to_hsv(*(turned / 255))[0]
    # YIQ's color plane is a linear map of HSV's hexagon, so the angle is near and not equal.
    assert min(hue, 1 - hue) == pytest.approx(0.05, abs=0.025)


def test_results_stay_in_range_and_both_flips_occur() -> None:
    """Of noise with a bright left half."""
    pixels = np.random.default_rng(1).integers(0, 256, (64, 8, 8, 3)).astype(np.uint8)
    pixels[:, :, :4] = 255 - pixels[:, :, :4] // 4
    views = augmented(tf.constant(pixels), layers("full"), SEED, 64).numpy()
    assert views.min() >= 0 and views.max() <= 255
    is_flipped = views[:, :, :4].mean(axis=(1, 2, 3)) < views[:, :, 4:].mean(axis=(1, 2, 3))
    assert 16 < is_flipped.sum() < 48
    assert len({view.tobytes() for view in views}) == 64


def test_same_seed_same_view_eagerly_and_in_a_pipeline() -> None:
    level = [*layers("full"), *layers([keras.layers.RandomContrast(0.5)])]
    eager = augmented(tf.constant(image()), level, SEED, 1)
    dataset = tf.data.Dataset.from_tensors(image()).map(lambda pixels: augmented(pixels, level, SEED, 1))
    np.testing.assert_allclose(eager, next(iter(dataset)), atol=1e-3)


def test_gray_images_keep_one_channel() -> None:
    assert augmented(tf.constant(image(channels=1)), layers("full"), SEED, 1).shape == (1, 16, 16, 1)


def test_a_layer_of_keras_that_is_given_is_left_as_it_is() -> None:
    given = keras.layers.RandomContrast(0.5, seed=1)
    wanted = keras.layers.RandomContrast(0.5, seed=1)(image() / 1.0, training=True)
    augmented(tf.constant(image()), layers([given]), SEED, 1)
    np.testing.assert_array_equal(given(image() / 1.0, training=True), wanted)


def test_mixed_precision_does_not_touch_pixels() -> None:
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        assert RandomColor()(image(), tf.fill((1, 4), 0.5)).dtype == tf.float32
    finally:
        keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize("layer", [RandomGeometry(0.5, 1.2, 5.0, True), RandomColor(0.3, 0.1)])
def test_configuration_round_trip(layer: keras.layers.Layer) -> None:
    again = type(layer).from_config(layer.get_config())
    draws = tf.random.stateless_uniform((1, layer.num_draws), (1, 1))
    np.testing.assert_array_equal(layer(image(), draws), again(image(), draws))
