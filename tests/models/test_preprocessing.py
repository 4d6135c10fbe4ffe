from __future__ import annotations

import keras
import numpy as np
import pytest
from keras.applications import imagenet_utils

from models.preprocessing import MODES, Preprocessing

PIXELS = np.random.RandomState(0).randint(0, 256, (2, 3, 4, 3)).astype("uint8")


@pytest.mark.parametrize("mode", ["caffe", "torch"])
def test_equals_keras_applications(mode):
    expected = imagenet_utils.preprocess_input(PIXELS.astype("float32"), data_format="channels_last", mode=mode)

    np.testing.assert_allclose(Preprocessing(mode)(PIXELS), expected, rtol=1e-5, atol=1e-6)


def test_centred_maps_black_and_white_to_minus_one_and_one():
    grey = np.array([0, 255], "uint8").reshape(1, 1, 2, 1)

    np.testing.assert_array_equal(np.ravel(Preprocessing("centred")(grey)), [-1.0, 1.0])


def test_lecun_maps_background_and_ink_as_the_paper_says():
    grey = np.array([0, 255], "uint8").reshape(1, 1, 2, 1)

    np.testing.assert_allclose(np.ravel(Preprocessing("lecun")(grey)), [-0.1, 1.175], rtol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_uint8_and_float_pixels_agree_in_float32_under_mixed_precision(mode):
    layer = Preprocessing(mode, dtype="mixed_bfloat16")
    values = layer(PIXELS)

    assert values.dtype == "float32"
    np.testing.assert_array_equal(values, layer(PIXELS.astype("float32")))


@pytest.mark.parametrize("mode", MODES)
def test_is_rebuilt_from_its_configuration(mode):
    layer = Preprocessing(mode, name="preprocessing")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer), safe_mode=True)

    np.testing.assert_array_equal(again(PIXELS), layer(PIXELS))


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="caffe.*Received: mode='tf'"):
        Preprocessing("tf")
