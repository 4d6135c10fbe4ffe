from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest

import models
from evaluation import gradcam
from models.weights import load_trained


def brightness_model() -> keras.Model:
    """One logit that grows with the mean of the red channel, so the evidence is the red channel itself."""
    pixels = keras.Input((8, 8, 3), name="pixels")
    features = keras.Input((8, 8, 3))
    red = keras.layers.Conv2D(1, 1, use_bias=False, name="conv")
    backbone = keras.Model(features, red(features), name="backbone")
    red.set_weights([np.array([1.0, 0, 0]).reshape(1, 1, 3, 1)])
    head = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.GlobalAveragePooling2D()], name="head")
    preprocessing = keras.layers.Rescaling(1 / 255, name="preprocessing")
    return keras.Model(pixels, head(backbone(preprocessing(pixels))))


def test_the_evidence_lies_where_it_was_put() -> None:
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    pixels[:, :4, :4, 0] = 200
    pixels[:, 4:, 4:, 1] = 255
    heat = gradcam.explain(brightness_model(), pixels, np.array([1, 0]))
    assert heat.dtype == np.float32 and heat.shape == (2, 8, 8)
    np.testing.assert_allclose(heat[0, :4, :4], 1, atol=1e-6)
    assert heat[0, 4:].max() == heat[0, :, 4:].max() == 0
    # All that is red speaks against class 0.
    assert heat[1].max() == 0


@pytest.mark.parametrize(("name", "size", "classes"), [("lenet5", 16, 10), ("squeezenet", 48, 2), ("resnet18", 32, 3)])
def test_every_kind_of_convolutional_model_explains_itself_and_so_does_its_file(
    name: str, size: int, classes: int, tmp_path: pathlib.Path
) -> None:
    keras.utils.set_random_seed(0)
    model = models.build(name, classes, image_size=size, transfer=name == "squeezenet")
    # As after --freeze: nothing that a gradient tape would watch of itself.
    model.get_layer("backbone").trainable = False
    channels = models.find(name).channels
    pixels = np.random.default_rng(0).integers(0, 256, (3, size, size, channels), np.uint8)
    answers = np.array([0, 1, 1])
    heat = gradcam.explain(model, pixels, answers)
    assert heat.shape == (3, size, size)
    assert 0 <= heat.min() and 0 < heat.max() <= 1
    model.save(tmp_path / "model.keras")
    reloaded = load_trained(str(tmp_path / "model.keras"))
    np.testing.assert_allclose(gradcam.explain(reloaded, pixels, answers), heat, atol=1e-6)


def test_more_images_than_a_batch_keep_their_order() -> None:
    generator = np.random.default_rng(1)
    pixels = generator.integers(0, 256, (11, 8, 8, 3), np.uint8)
    model = brightness_model()
    together = gradcam.explain(model, pixels, np.ones(11, np.int64))
    one = gradcam.explain(model, pixels[10:], np.ones(1, np.int64))
    np.testing.assert_allclose(together[10:], one, atol=1e-6)


def test_a_network_without_convolutions_has_no_map() -> None:
    model = models.build("plain_mlp", 2, image_size=8)
    assert gradcam.explain(model, np.zeros((1, 8, 8, 1), np.uint8), np.array([0])) is None


def test_an_overlay_is_brightest_where_the_evidence_is() -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 1
    laid_over = gradcam.overlay(np.full((4, 4, 3), 60, np.uint8), heat)
    assert laid_over.dtype == np.uint8 and laid_over.shape == (4, 4, 3)
    assert laid_over[0, 0].mean() > 2 * laid_over[1:].mean()
