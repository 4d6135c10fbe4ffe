from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil

import keras
import numpy as np
import pytest

import models
from data import folder, resumable
from data.pipeline import Files, Steps, View, ordered_batches, training_batches
from errors import UserError
from models.layers import freeze_backbone
from training import features
from training.distribution import ALONE
from training.objective import Objective

OBJECTIVE = Objective(2, ("class",), {})


@pytest.fixture
def files(picture_folder: pathlib.Path) -> Files:
    return Files(folder.load(str(picture_folder)), 48, 3)


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    model = models.build("squeezenet", 2, image_size=48, transfer=True)
    freeze_backbone(model)
    return model


def digests(files: Files) -> list[str]:
    return [str(i) for i in range(len(files))]


def compute(front: keras.Model, files: Files) -> features.Table:
    return features.compute(front, files, digests(files), OBJECTIVE, 16, "features")


def test_the_two_halves_are_the_whole(files: Files) -> None:
    model = network()
    front, rest = features.cut(model)
    pixels = next(iter(ordered_batches(files, 8)))[0]
    assert front.output_shape == (None, 512), "pooled, so a picture costs 2 KB and not 16"
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


def test_training_on_features_gives_the_weights_of_training_through_the_backbone(files: Files) -> None:
    heads = []
    for uses_features in (False, True):
        model = network()
        before = [variable.numpy() for variable in model.get_layer("backbone").variables]
        front, rest = features.cut(model)
        trainee = rest if uses_features else model
        rows = compute(front, files) if uses_features else files
        targets = None if uses_features else OBJECTIVE.targets
        trainee.compile(optimizer=keras.optimizers.Adam(1e-3), **OBJECTIVE.compile_arguments())
        trainee.fit(
            training_batches(rows, Steps(16, 5, 0, 4), targets=targets),
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


def test_features_are_kept_and_used_again(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compute(features.cut(network())[0], files)
    monkeypatch.setattr(features, "_fill", lambda *arguments: pytest.fail("computed again"))
    again = compute(features.cut(network())[0], files)
    np.testing.assert_array_equal(first.inputs, again.inputs)


def test_other_weights_pixels_or_sizes_ask_for_other_features(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    compute(features.cut(network())[0], files)
    monkeypatch.setattr(features, "_fill", lambda *arguments: pytest.fail("computed again"))
    changed = network()
    kernel = changed.get_layer("backbone").trainable_variables or changed.get_layer("backbone").variables
    kernel[0].assign(kernel[0] + 1e-3)
    for front, rows, names in [
        (features.cut(changed)[0], files, digests(files)),
        (features.cut(network())[0], files, digests(files)[::-1]),
    ]:
        with pytest.raises(pytest.fail.Exception, match="computed again"):
            features.compute(front, rows, names, OBJECTIVE, 16, "features")


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_cache_is_computed_again(files: Files, cache_of_its_own: pathlib.Path, damage: str) -> None:
    front = features.cut(network())[0]
    wanted = np.array(compute(front, files).inputs)
    file = next(cache_of_its_own.rglob("column0.npy"))
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[-100] ^= 0xFF
        file.write_bytes(content)
    elif damage == "truncate":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.unlink()
    np.testing.assert_allclose(compute(front, files).inputs, wanted, atol=1e-6)


def test_views_are_features_of_augmented_pictures(files: Files) -> None:
    front, _ = features.cut(network())
    plain = compute(front, files).inputs
    views = tuple(View("full", 0, number) for number in range(2))
    table = features.compute(front, files, digests(files), OBJECTIVE, 16, "features", views=views)
    assert (len(table), table.views) == (len(files), 2)
    first, second = np.split(np.asarray(table.inputs), 2)
    assert np.abs(first - second).max() > 1e-3
    wanted = next(iter(ordered_batches(files, 16, view=views[1])))[0]
    np.testing.assert_allclose(second[:16], front(wanted, training=False), atol=1e-4)
    assert np.abs(first - plain).mean() < 3 * np.abs(plain).mean()


def test_the_rest_of_a_view_has_its_own_random_numbers(files: Files) -> None:
    front, _ = features.cut(network())
    views = tuple(View("full", 3, number) for number in (2, 5))
    work = features._Work(front, files, OBJECTIVE, 3, ALONE, views)
    whole = [pixels for view in views for pixels, _ in ordered_batches(files, 3, view=view)]
    assert len(whole) == 28 and len(whole[13]) == 1
    for first in (0, 1, 5, 13, 14, 15, 27):
        made = [pixels for part in work.passes(first) for pixels, _ in work.batches(*part, OBJECTIVE.targets)]
        for one, other in zip(made, whole[first:], strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("batches", [1, 3, 5])
def test_a_computation_goes_on_where_it_was_ended(
    files: Files, capsys: pytest.CaptureFixture, batches: int, cache_of_its_own: pathlib.Path
) -> None:
    """Two views of 40 pictures, 16 at a time: the third batch of each view is a smaller one."""
    front, _ = features.cut(network())
    views = tuple(View("full", 0, number) for number in range(2))
    given = (front, files, digests(files), OBJECTIVE, 16, "features")
    asked: list[int] = []

    class Ended(BaseException):
        pass

    def end() -> bool:
        asked.append(1)
        if len(asked) == batches:
            raise Ended
        return False

    with pytest.raises(Ended):
        features.compute(*given, views=views, is_due=end)
    capsys.readouterr()
    table = features.compute(*given, views=views, is_due=lambda: asked.append(2) or False)
    assert asked.count(2) == 6 - batches, "no batch is computed twice"
    rows = [0, 16, 32, 40, 56, 72, 80][batches]
    assert f"Going on with features: {rows} of 80 are there." in capsys.readouterr().err
    shutil.rmtree(cache_of_its_own)
    expected = features.compute(*given, views=views)
    np.testing.assert_array_equal(table.inputs, expected.inputs)
    np.testing.assert_array_equal(table.labels, expected.labels)


@pytest.mark.parametrize(("other", "rows"), [(80, 40), (39, 32), (8, 0)])
def test_all_workers_go_on_behind_the_batch_that_all_have(
    files: Files, monkeypatch: pytest.MonkeyPatch, other: int, rows: int
) -> None:
    """This one has stopped after 40 rows of 80, the end of the first view."""
    front, _ = features.cut(network())
    views = tuple(View("full", 0, number) for number in range(2))
    work = features._Work(front, files, OBJECTIVE, 16, ALONE, views)
    monkeypatch.setattr(features, "_least", lambda team, mine: min(mine, other))
    starts: list[int] = []
    monkeypatch.setattr(features, "_forward", lambda work, first: starts.append(first) or iter(()))
    columns = [((512,), np.dtype(np.float32)), ((1,), np.dtype(np.float32))]
    folder = str(pathlib.Path(os.environ["XDG_CACHE_HOME"]) / "features")
    with pytest.raises(ZeroDivisionError), resumable.filling(folder, columns, 80) as table:
        table.append(np.zeros((40, 512)), np.zeros((40, 1)))
        raise ZeroDivisionError
    with pytest.raises(UserError, match="unfinished"):
        features._fill(folder, work, "features", lambda: False)
    assert work.rows_before(starts[0]) == rows


def test_computed_with_the_last_bits_in_mind(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they count, features that were computed in other batches are not used."""
    work = features._Work(features.cut(network())[0], files, OBJECTIVE, 16, ALONE, (View(),))
    other = dataclasses.replace(work, batch_size=8)
    assert features._key(work, digests(files)) == features._key(other, digests(files))
    monkeypatch.setattr(features, "is_op_determinism_enabled", lambda: True)
    assert features._key(work, digests(files)) != features._key(other, digests(files))
