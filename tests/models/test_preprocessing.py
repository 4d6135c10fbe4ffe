from __future__ import annotations

import keras
import numpy as np
import pytest
from keras.applications import imagenet_utils

from models.layers import MODES, preprocessing

PIXELS = np.random.RandomState(0).randint(0, 256, (2, 4, 4, 3)).astype("uint8")


@pytest.mark.parametrize("mode", ["caffe", "torch"])
def test_equals_keras_applications(mode):
    expected = imagenet_utils.preprocess_input(PIXELS.astype("float32"), data_format="channels_last", mode=mode)

    np.testing.assert_allclose(preprocessing(mode, (4, 4, 3))(PIXELS), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_is_the_difference_from_the_mean_over_the_scale(mode):
    known = MODES[mode]
    channels = PIXELS.astype("float32")[..., :: -1 if known.bgr else 1]
    expected = (channels - np.float32(known.mean)) / np.float32(known.scale)

    # A product and a sum of float32 numbers; where the scale is 1, the same bits.
    tolerance = 0.0 if mode == "caffe" else 1e-6
    np.testing.assert_allclose(preprocessing(mode, (4, 4, 3))(PIXELS), expected, rtol=0, atol=tolerance)


def test_centered_maps_black_and_white_to_minus_one_and_one():
    gray = np.array([0, 255], "uint8").reshape(1, 1, 2, 1)

    np.testing.assert_allclose(np.ravel(preprocessing("centered", (1, 2, 1))(gray)), [-1.0, 1.0], rtol=1e-6)


def test_lecun_maps_background_and_ink_as_the_paper_says():
    gray = np.array([0, 255], "uint8").reshape(1, 1, 2, 1)

    np.testing.assert_allclose(np.ravel(preprocessing("lecun", (1, 2, 1))(gray)), [-0.1, 1.175], rtol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_uint8_and_float_pixels_agree_in_float32_under_mixed_precision(mode):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = preprocessing(mode, (4, 4, 3))
    finally:
        keras.config.set_dtype_policy("float32")
    values = model(PIXELS)

    assert values.dtype == "float32"
    np.testing.assert_array_equal(values, model(PIXELS.astype("float32")))


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="caffe.*Received: mode='tf'"):
        preprocessing("tf", (4, 4, 3))
