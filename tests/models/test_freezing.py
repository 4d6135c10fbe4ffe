from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

import models
from models import alexnet, resnet, weights
from models.layers import compose, freeze_backbone, frozen, linear_head, pooled_head, unfreeze_backbone
from tests.models.deterministic import fill, pixels
from tests.models.golden import TINY_BASIC, TINY_OWT


def _resnet(transfer: bool) -> keras.Model:
    backbone = resnet.backbone(32, 3, dataclasses.replace(TINY_BASIC, transfer=transfer))
    model = compose(models.find("resnet18"), 32, backbone, pooled_head(backbone, 2))
    fill(model)
    return model


def _alexnet() -> keras.Model:
    backbone = alexnet.backbone(64, 3, TINY_OWT, dense_units=32, dropout_first=True, maps=2)
    return compose(models.find("alexnet_owt"), 64, backbone, linear_head(backbone, 2))


def _train_one_step(model: keras.Model) -> None:
    model.compile(optimizer=keras.optimizers.Adam(1e-2), loss=keras.losses.BinaryCrossentropy(from_logits=True))
    size = model.input_shape[1]
    model.fit(pixels(8, size, 3), np.arange(8) % 2, batch_size=8, epochs=1, verbose=0)


def _changed(model: keras.Model, before: dict[str, np.ndarray]) -> set[str]:
    return {name for name, value in _values(model).items() if not np.array_equal(value, before[name])}


def _values(model: keras.Model) -> dict[str, np.ndarray]:
    return {weight.path: weight.numpy().copy() for weight in model.weights}


def _statistics(model: keras.Model) -> set[str]:
    return {weight.path for weight in model.weights if weight.name.startswith("moving_")}


@pytest.mark.parametrize("transfer", [False, True])
def test_a_step_leaves_every_weight_and_statistic_of_a_frozen_backbone_bit_identical(transfer):
    model = _resnet(transfer)
    freeze_backbone(model)
    before = _values(model)

    _train_one_step(model)

    assert _changed(model, before) == {weight.path for weight in model.get_layer("head").weights}


def test_fine_tuning_a_transfer_model_trains_every_weight_but_no_statistic():
    model = _resnet(transfer=True)
    freeze_backbone(model)
    unfreeze_backbone(model)
    before = _values(model)

    _train_one_step(model)

    assert _changed(model, before) == set(before) - _statistics(model)


def test_statistics_stay_also_after_saving_and_loading(tmp_path):
    model = _resnet(transfer=True)
    freeze_backbone(model)
    model.save(tmp_path / "model.keras")
    loaded = weights.load_trained(tmp_path / "model.keras")
    unfreeze_backbone(loaded)
    before = _values(loaded)

    _train_one_step(loaded)

    assert _changed(loaded, before) == set(before) - _statistics(loaded)


def test_from_scratch_statistics_do_change():
    model = _resnet(transfer=False)
    before = _values(model)

    _train_one_step(model)

    assert _statistics(model) <= _changed(model, before)


def test_bn_mlp_keeps_its_statistics_only_for_transfer():
    for transfer in (False, True):
        model = models.build("bn_mlp", 2, image_size=8, transfer=transfer)
        before = _values(model)
        model.compile(optimizer="adam", loss=keras.losses.BinaryCrossentropy(from_logits=True))
        model.fit(pixels(8, 8, 1), np.arange(8) % 2, batch_size=8, epochs=1, verbose=0)
        assert bool(_statistics(model) & _changed(model, before)) is not transfer


def test_no_fit_of_a_transfer_model_moves_a_statistic_even_where_the_layers_are_made_trainable(tmp_path):
    model = _resnet(transfer=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for layer in loaded.get_layer("backbone").layers:
        layer.trainable = True
    before = _values(loaded)

    _train_one_step(loaded)

    assert _changed(loaded, before) == set(before) - _statistics(loaded)


def test_a_frozen_model_gives_the_same_in_training_and_inference():
    for model in (_resnet(True), _resnet(False), _alexnet()):
        freeze_backbone(model)
        batch = pixels(4, model.input_shape[1], 3)
        np.testing.assert_array_equal(frozen(model)(batch, training=True), model(batch, training=False))


def test_fitting_a_frozen_model_trains_the_head_of_the_whole():
    model = _alexnet()
    freeze_backbone(model)
    before = _values(model)

    _train_one_step(frozen(model))

    assert _changed(model, before) == {weight.path for weight in model.get_layer("head").weights}


def test_dropout_acts_while_the_whole_network_trains_also_after_saving(tmp_path):
    model = _alexnet()
    freeze_backbone(model)
    model.save(tmp_path / "model.keras")
    model = weights.load_trained(tmp_path / "model.keras")
    batch = pixels(4, 64, 3)
    np.testing.assert_array_equal(frozen(model)(batch, training=True), model(batch, training=False))

    unfreeze_backbone(model)

    assert np.abs(model(batch, training=True) - model(batch, training=True)).max() > 0
    np.testing.assert_array_equal(model(batch, training=False), model(batch, training=False))


def test_a_frozen_backbone_has_no_noise() -> None:
    pixels_in = keras.Input((32, 32, 3), name="preprocessed")
    x = keras.layers.GaussianNoise(1.0)(keras.layers.Conv2D(4, 3, name="conv1")(pixels_in))
    backbone = keras.Model(pixels_in, x, name="backbone")
    model = compose(models.find("resnet18"), 32, backbone, pooled_head(backbone, 2))
    fill(model)
    batch = pixels(4, 32, 3)
    assert not np.array_equal(model(batch, training=True), model(batch, training=False))
    np.testing.assert_array_equal(frozen(model)(batch, training=True), model(batch, training=False))
