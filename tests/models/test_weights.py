from __future__ import annotations

import pathlib
import pickle
import sys

import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format

import models
from errors import UserError
from models import weights
from models.weights import layers_with_weights
from tests.models.deterministic import fill, pixels


def _model(name: str = "squeezenet", num_classes: int = 2) -> keras.Model:
    return models.build(name, num_classes, image_size=32, transfer=True)


@pytest.fixture
def filled() -> keras.Model:
    model = _model()
    fill(model)
    return model


def _legacy(path: pathlib.Path, part: keras.Model) -> str:
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, part)
    return str(path)


def _equal(a: keras.Model, b: keras.Model) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a.get_weights(), b.get_weights(), strict=True))


@pytest.mark.parametrize("kind", ["whole.weights.h5", "backbone.weights.h5", "run.keras", "legacy.h5", "no_suffix"])
def test_every_layout_fills_the_backbone(kind, filled, tmp_path):
    path = tmp_path / kind
    if kind == "whole.weights.h5":
        filled.save_weights(path)
    elif kind == "backbone.weights.h5":
        filled.get_layer("backbone").save_weights(path)
    elif kind == "run.keras":
        filled.save(path)
    else:
        _legacy(path, filled.get_layer("backbone"))
    model = _model()
    head = model.get_layer("head").get_weights()

    weights.load(model, "squeezenet", str(path))

    assert _equal(model.get_layer("backbone"), filled.get_layer("backbone"))
    assert all(np.array_equal(a, b) for a, b in zip(model.get_layer("head").get_weights(), head, strict=True))


@pytest.mark.parametrize("kind", ["whole.weights.h5", "run.keras"])
def test_the_head_comes_too_when_asked_for_also_beside_an_optimizers_state(kind, tmp_path):
    source, model = models.build("lenet5", 2), models.build("lenet5", 2)
    source.compile(optimizer="adam", loss="mse")
    source.fit(pixels(2, 32, 1), np.zeros((2, 1)), verbose=0)
    (source.save if kind.endswith(".keras") else source.save_weights)(tmp_path / kind)

    weights.load(model, "lenet5", str(tmp_path / kind), include_head=True)

    assert _equal(model, source)


@pytest.mark.parametrize("name", ["bn_mlp", "multitask"])
@pytest.mark.parametrize("kind", ["whole.weights.h5", "run.keras"])
def test_subclassed_models_fill_each_other(name, kind, tmp_path):
    source, model = (models.build(name, 2, image_size=8) for _ in range(2))
    fill(source)
    (source.save if kind.endswith(".keras") else source.save_weights)(tmp_path / kind)

    weights.load(model, name, str(tmp_path / kind), include_head=True)

    assert _equal(model, source)


def test_a_file_from_scratch_fills_a_backbone_with_fixed_statistics(tmp_path):
    scratch = models.build("resnet18", 2, image_size=32)
    fill(scratch)
    scratch.save_weights(tmp_path / "scratch.weights.h5")
    model = models.build("resnet18", 2, image_size=32, transfer=True)

    weights.load(model, "resnet18", str(tmp_path / "scratch.weights.h5"), include_head=True)

    batch = pixels(2, 32, 3)
    np.testing.assert_allclose(model(batch), scratch(batch, training=False), rtol=1e-5)


def test_a_file_with_top_fills_a_backbone_without(tmp_path):
    reference = keras.applications.VGG16(weights=None, input_shape=(32, 32, 3), classes=3)
    path = _legacy(tmp_path / "vgg16_weights_tf_dim_ordering_tf_kernels.h5", reference)
    current = tmp_path / "vgg16.weights.h5"
    reference.save_weights(current)
    for file in (path, str(current)):
        model = _model("vgg16")
        weights.load(model, "vgg16", file)
        for layer in layers_with_weights(model.get_layer("backbone")):
            np.testing.assert_array_equal(layer.kernel, reference.get_layer(layer.name).kernel)


def test_the_head_of_another_number_of_classes_is_refused(tmp_path):
    model = _model(num_classes=5)
    model.save_weights(tmp_path / "five.weights.h5")
    with pytest.raises(UserError, match=r"layer predictions has weights of shapes \[\(512, 5\)"):
        weights.load(_model(), "squeezenet", str(tmp_path / "five.weights.h5"), include_head=True)


def _refused(path: pathlib.Path | str, words: str, name: str = "squeezenet") -> None:
    """The file is refused in these words, and no weight has changed."""
    model = _model(name)
    before = model.get_weights()
    with pytest.raises(UserError) as caught:
        weights.load(model, name, str(path))
    message = str(caught.value)
    assert message.startswith(f"--weights={path} can't be used for --model={name}: ")
    assert words in message
    assert "Expected: a .weights.h5, legacy Keras .h5 or .keras file" in message
    assert "\n" not in message
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (
            "text_placeholder_vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "text, not weights (it starts",
        ),
        ("truncated_1MiB_resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", "truncated or damaged HDF5"),
        ("truncated_2.7MB_resnet50_weights_tf_dim_ordering_tf_kernels.h5", "truncated or damaged HDF5"),
        ("xml_error_page_resnet50_weights_tf_dim_ordering_tf_kernels.h5", "a web page or an error message of a server"),
    ],
)
def test_real_broken_downloads_are_refused(shared, file, words):
    _refused(shared / "data" / "odd" / "weights" / file, words, "vgg16")


def test_broken_files_are_refused(filled, tmp_path):
    _refused(tmp_path / "missing.h5", "there is no such file")
    _refused(tmp_path, "there is no such file")
    contents = {
        "empty.h5": (b"", "the file is empty"),
        "noise.h5": (bytes(range(200, 256)), "match no known format"),
        "pickled.h5": (pickle.dumps({"a": 1}), "a pickle"),
        "page.keras": (b"\n<!DOCTYPE html><html>Sign in</html>", "a web page"),
        "zip.h5": (b"PK\x03\x04junk", "a damaged zip archive"),
        "zip.keras": (b"PK\x03\x04junk", "a damaged .keras file"),
    }
    for name, (content, words) in contents.items():
        (tmp_path / name).write_bytes(content)
        _refused(tmp_path / name, words)
    filled.save(tmp_path / "cut.keras")
    whole = (tmp_path / "cut.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(whole[: len(whole) // 2])
    _refused(tmp_path / "cut.keras", "a damaged .keras file")


def test_truncation_anywhere_is_refused(filled, tmp_path):
    filled.save_weights(tmp_path / "whole.weights.h5")
    whole = (tmp_path / "whole.weights.h5").read_bytes()
    for fraction in (0.01, 0.3, 0.7, 0.999):
        path = tmp_path / f"cut{fraction}.weights.h5"
        path.write_bytes(whole[: int(len(whole) * fraction)])
        _refused(path, "truncated or damaged HDF5")


def test_hdf5_of_something_else_is_refused(tmp_path):
    with h5py.File(tmp_path / "table.h5", "w") as file:
        file["table"] = np.zeros(3)
    _refused(tmp_path / "table.h5", "not one of Keras weights")


def test_another_network_is_refused(tmp_path):
    # Every layer of ResNet-18 is in ResNet-34, of the same shape: only what is left over tells them apart.
    _refused(_legacy(tmp_path / "34.h5", _model("resnet34").get_layer("backbone")), "has no conv2_block3", "resnet18")
    _refused(_legacy(tmp_path / "18.h5", _model("resnet18").get_layer("backbone")), "lacks conv2_block3", "resnet34")
    _model("resnet18").save(tmp_path / "run.keras")
    _refused(tmp_path / "run.keras", "of another network")


def test_one_misshapen_tensor_refuses_the_whole_file(filled, tmp_path):
    path = _legacy(tmp_path / "file.h5", filled.get_layer("backbone"))
    with h5py.File(path, "a") as file:
        group = file["fire9_expand3x3"]
        name = group.attrs["weight_names"][1]
        del group[name]
        group[name] = np.zeros(17, "float32")
    _refused(path, "layer fire9_expand3x3 has weights of shapes [(3, 3, 64, 256), (17,)] in it, ")


def _replace_one_tensor(path: str, make) -> None:
    with h5py.File(path, "a") as file:
        group = file["conv1"]
        name = group.attrs["weight_names"][0]
        del group[name]
        make(group, name)


def test_links_that_leave_the_file_are_refused(filled, tmp_path):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["kernel"] = np.zeros((3, 3, 3, 64), "float32")
    (tmp_path / "raw").write_bytes(bytes(3 * 3 * 3 * 64 * 4))
    layout = h5py.VirtualLayout((3, 3, 3, 64), "float32")
    layout[:] = h5py.VirtualSource(str(secret), "kernel", (3, 3, 3, 64))
    makers = {
        "external": lambda group, name: group.__setitem__(name, h5py.ExternalLink(str(secret), "/kernel")),
        "soft": lambda group, name: group.__setitem__(name, h5py.SoftLink("/conv1")),
        "raw": lambda group, name: group.create_dataset(
            name, (3, 3, 3, 64), "float32", external=[(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)]
        ),
        "virtual": lambda group, name: group.create_virtual_dataset(name, layout),
    }
    for kind, make in makers.items():
        path = _legacy(tmp_path / f"{kind}.h5", filled.get_layer("backbone"))
        _replace_one_tensor(path, make)
        _refused(path, "refused")


def test_a_circle_of_groups_is_read_once_and_a_tensor_of_text_refused(filled, tmp_path):
    circle = tmp_path / "circle.weights.h5"
    filled.save_weights(circle)
    with h5py.File(circle, "a") as file:
        file["layers/functional_1/layers/again"] = file["layers"]
    model = _model()
    weights.load(model, "squeezenet", str(circle))
    assert _equal(model.get_layer("backbone"), filled.get_layer("backbone"))

    text = _legacy(tmp_path / "text.h5", filled.get_layer("backbone"))
    _replace_one_tensor(text, lambda group, name: group.__setitem__(name, "text"))
    _refused(text, "not a tensor of floating-point numbers")
    claimed = _legacy(tmp_path / "claimed.h5", filled.get_layer("backbone"))
    _replace_one_tensor(claimed, lambda group, name: None)
    _refused(claimed, "which it does not hold")


def test_a_declared_giant_is_refused_before_it_is_read(filled, tmp_path):
    path = _legacy(tmp_path / "giant.h5", filled.get_layer("backbone"))
    _replace_one_tensor(path, lambda g, name: g.create_dataset(name, (1 << 40,), "float32", chunks=(1 << 20,)))
    _refused(path, "conv1/kernel is refused (Not allowed: H5 dataset")


def test_without_torch_a_state_dict_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "resnet18-f37072fd.pth").write_bytes(b"any")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"needs torch, which is not installed.*pip install torch.*--weights=PATH"):
        weights.load(_model("resnet18"), "resnet18", str(tmp_path / "resnet18-f37072fd.pth"))
