from __future__ import annotations

import dataclasses
import pathlib
import shutil
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.config import disable_op_determinism

import models
from data import augment, folder
from data.batches import Batches
from data.validation import validate
from models.layers import compose, freeze_backbone
from training import features
from training.distributed.strategy import ALONE, Distribution
from training.heads import Objective, make

OBJECTIVE = Objective(make(("class",), ("lying", "upright"), {}))


@pytest.fixture
def images(image_folder: pathlib.Path) -> Batches:
    return Batches(validate(folder.load(str(image_folder))), image_size=48, batch_size=16, augment="full")


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    model = models.build("squeezenet", 2, image_size=48, transfer=True)
    freeze_backbone(model)
    return model


def compute(front: keras.Model, images: Batches, **how: Any) -> Batches:
    return features.compute(front, images, OBJECTIVE, "features", **how)


class Ended(BaseException):
    """A computation is ended."""


def compute_some(front: keras.Model, images: Batches, batches: int, **how: Any) -> None:
    """Ends the computation after so many batches."""
    computed: list[int] = []

    def end() -> None:
        computed.append(1)
        if len(computed) == batches:
            raise Ended

    with pytest.raises(Ended):
        compute(front, images, check=end, **how)


def test_the_two_halves_are_the_whole(images: Batches) -> None:
    model = network()
    front, rest = features.cut(model)
    pixels = next(iter(images.evaluation()))[0]
    assert front.output_shape == (None, 512), "pooled, so an image costs 2 KB and not 16"
    np.testing.assert_allclose(rest(front(pixels)), model(pixels), atol=1e-5)


@pytest.mark.parametrize("name", ["vgg16", "resnet18", "alexnet_owt", "multitask", "bn_mlp"])
def test_every_kind_of_model_can_be_cut(name: str) -> None:
    model = models.build(name, 3, image_size=models.find(name).min_image_size, transfer=True)
    front, rest = features.cut(model)
    pixels = np.random.default_rng(0).integers(0, 256, (2, *front.input_shape[1:])).astype(np.uint8)
    whole, halves = model(pixels), rest(front(pixels))
    for a, b in zip(keras.tree.flatten(whole), keras.tree.flatten(halves), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert len(rest.trainable_variables) < len(model.trainable_variables)


def test_training_on_features_gives_the_weights_of_training_through_the_backbone(images: Batches) -> None:
    heads = []
    for uses_features in (False, True):
        model = network()
        before = [variable.numpy() for variable in model.get_layer("backbone").variables]
        front, rest = features.cut(model)
        trainee = rest if uses_features else model
        pixels = dataclasses.replace(images, augment="none", targets=OBJECTIVE.targets)
        batches = compute(front, images) if uses_features else pixels
        trainee.compile(optimizer=keras.optimizers.Adam(1e-3), **OBJECTIVE.compile_arguments())
        trainee.fit(
            dataclasses.replace(batches, seed=5).training(0, 4),
            epochs=4,
            steps_per_epoch=3,
            verbose=0,
            shuffle=False,
        )
        heads.append([variable.numpy() for variable in model.get_layer("head").variables])
        for variable, value in zip(model.get_layer("backbone").variables, before, strict=True):
            np.testing.assert_array_equal(variable.numpy(), value)
    for through, kept in zip(*heads, strict=True):
        np.testing.assert_allclose(kept, through, atol=1e-5)


def fail() -> None:
    """Is called after each batch that is computed."""
    pytest.fail("computed again")


def test_features_are_kept_and_used_again(images: Batches) -> None:
    first = compute(features.cut(network())[0], images)
    again = compute(features.cut(network())[0], images, check=fail)
    np.testing.assert_array_equal(first.inputs, again.inputs)


def test_other_weights_pixels_or_sizes_ask_for_other_features(images: Batches) -> None:
    compute(features.cut(network())[0], images)
    changed = network()
    kernel = changed.get_layer("backbone").trainable_variables or changed.get_layer("backbone").variables
    kernel[0].assign(kernel[0] + 1e-3)
    other = dataclasses.replace(images, inputs=images.dataset.take(np.arange(len(images))[::-1]))
    for front, batches in [(features.cut(changed)[0], images), (features.cut(network())[0], other)]:
        with pytest.raises(pytest.fail.Exception, match="computed again"):
            features.compute(front, batches, OBJECTIVE, "features", check=fail)


def batches_computed(
    images: Batches, objective: Objective = OBJECTIVE, view: int | None = None
) -> tuple[int, np.ndarray]:
    """How many batches of features were computed, and the features."""
    computed: list[int] = []
    table = features.compute(
        features.cut(network())[0],
        images,
        objective,
        "features",
        views=(view,),
        check=lambda: computed.append(1),
    )
    return len(computed), np.array(table.inputs)


@pytest.mark.parametrize(
    ("layer", "defaults"), [(augment.RandomColor, (0.2, 0.15)), (augment.RandomGeometry, (0.5, 1.1, 0.0, False))]
)
def test_another_constant_of_the_augmentation_asks_for_other_features(
    images: Batches, monkeypatch: pytest.MonkeyPatch, layer: type, defaults: tuple
) -> None:
    """The defaults of the constructors are what somebody changes who changes an augmentation."""
    before = batches_computed(images, view=0)
    assert batches_computed(images, view=0)[0] == 0
    monkeypatch.setattr(layer.__init__, "__defaults__", defaults)
    after = batches_computed(images, view=0)
    assert (before[0], after[0]) == (3, 3)
    assert np.abs(after[1] - before[1]).max() > 1e-3


def test_other_weights_of_the_losses_use_the_same_features(images: Batches) -> None:
    """No target depends on them; it does on the heads."""
    both = ("class", "brightness")
    two_heads = Objective(make(both, ("lying", "upright"), {"class": 0.7, "brightness": 0.3}))
    heavier = Objective(make(both, ("lying", "upright"), {"class": 0.5, "brightness": 0.5}))
    assert [batches_computed(images, objective)[0] for objective in (two_heads, heavier, OBJECTIVE)] == [3, 0, 3]


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_cache_is_computed_again(images: Batches, cache_of_its_own: pathlib.Path, damage: str) -> None:
    front = features.cut(network())[0]
    wanted = np.array(compute(front, images).inputs)
    file = next(cache_of_its_own.rglob("rows"))
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[100] ^= 0xFF
        file.write_bytes(content)
    elif damage == "truncate":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.unlink()
    np.testing.assert_allclose(compute(front, images).inputs, wanted, atol=1e-6)


def test_noise_of_the_head_is_trained_with() -> None:
    """In the first part it would be computed once, without its effect."""
    backbone = network().get_layer("backbone")
    stack = [keras.layers.GlobalAveragePooling2D(), keras.layers.GaussianNoise(1.0), keras.layers.Dense(1)]
    model = compose(models.find("squeezenet"), 48, backbone, keras.Sequential(stack, name="head"))
    front, rest = features.cut(model)
    assert front.output_shape == (None, 512)
    inputs = np.zeros((4, 512), np.float32)
    assert np.ptp(rest(inputs, training=True)) > 0 and np.ptp(rest(inputs, training=False)) == 0


def test_views_are_features_of_augmented_images(images: Batches) -> None:
    front, _ = features.cut(network())
    plain = compute(front, images).inputs
    views = (0, 1)
    table = compute(front, images, views=views)
    assert (len(table), table.views) == (len(images), 2)
    first, second = np.split(np.asarray(table.inputs), 2)
    assert np.abs(first - second).max() > 1e-3
    wanted = next(iter(dataclasses.replace(images, view=1).evaluation()))[0]
    np.testing.assert_allclose(second[:16], front(wanted, training=False), atol=1e-4)
    assert np.abs(first - plain).mean() < 3 * np.abs(plain).mean()


@pytest.mark.slow
def test_a_computation_may_be_ended_often(images: Batches, cache_of_its_own: pathlib.Path) -> None:
    """At the first and the last batch of a view too, of which each has 13 whole ones and one of a single image."""
    front, _ = features.cut(network())
    images = dataclasses.replace(images, batch_size=3, seed=3)
    how = {"views": (2, 5)}
    for batches in (1, 4, 8, 1, 1, 12):
        compute_some(front, images, batches, **how)
    computed: list[int] = []
    table = compute(front, images, check=lambda: computed.append(1), **how)
    assert len(computed) == 1, "27 of 28 batches were there"
    shutil.rmtree(cache_of_its_own)
    np.testing.assert_array_equal(table.inputs, compute(front, images, **how).inputs)


@pytest.mark.parametrize("batches", [3, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 5))])
def test_a_computation_resumes_where_it_was_ended(
    images: Batches, capsys: pytest.CaptureFixture, batches: int, cache_of_its_own: pathlib.Path
) -> None:
    """Two views of 40 images, 16 at a time: the third batch of each view is a smaller one."""
    front, _ = features.cut(network())
    views = (0, 1)
    compute_some(front, images, batches, views=views)
    capsys.readouterr()
    computed: list[int] = []
    table = compute(front, images, views=views, check=lambda: computed.append(1))
    assert len(computed) == 6 - batches, "no batch is computed twice"
    rows = [0, 16, 32, 40, 56, 72, 80][batches]
    assert f"Resuming features: {rows} of 80 are there." in capsys.readouterr().err
    shutil.rmtree(cache_of_its_own)
    expected = compute(front, images, views=views)
    np.testing.assert_array_equal(table.inputs, expected.inputs)
    np.testing.assert_array_equal(table.labels, expected.labels)


@dataclasses.dataclass(frozen=True)
class Pair(Distribution):
    """The chief of two workers; `others` is what the second one contributes to each sum."""

    others: list[Any] = dataclasses.field(default_factory=list)

    def sum(self, values: np.ndarray) -> np.ndarray:
        return values + self.others.pop(0)


@pytest.mark.parametrize(("other", "rows", "batches"), [(80, 40, 3), (39, 32, 4), (8, 0, 6)])
def test_all_workers_resume_behind_the_batch_that_all_have(
    images: Batches, capsys: pytest.CaptureFixture, other: int, rows: int, batches: int
) -> None:
    """This one has stopped after 40 rows of 80, the end of the first view."""
    front, _ = features.cut(network())
    views = (0, 1)
    compute_some(front, images, 3, views=views)
    capsys.readouterr()
    computed: list[int] = []
    # Neither has all of them; then both say how many they have.
    pair = Pair(ALONE.strategy, 0, 2, [0, np.array([0, other])])
    compute(front, images, views=views, distribution=pair, check=lambda: computed.append(1))
    assert len(computed) == batches
    assert (f"{rows} of 80 are there." in capsys.readouterr().err) == (rows > 0)


@pytest.mark.parametrize("is_deterministic", [False, True])
def test_computed_with_the_last_bits_in_mind(images: Batches, is_deterministic: bool) -> None:
    """Where they count, features that were computed in other batches are not used."""
    front, _ = features.cut(network())
    if is_deterministic:
        tf.config.experimental.enable_op_determinism()
    try:
        compute(front, images)
        computed: list[int] = []
        compute(front, dataclasses.replace(images, batch_size=8), check=lambda: computed.append(1))
    finally:
        disable_op_determinism()
    assert len(computed) == (5 if is_deterministic else 0)
