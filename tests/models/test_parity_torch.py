"""torchvision's networks and LeNet-5 against PyTorch, by way of a state dict in a file."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

import models
from errors import UserError
from models import resnet, weight_formats, weights
from models.layers import compose, local_response_normalization, pooled_head
from models.weights import layers_with_weights
from tests.models.deterministic import pixels

torch = pytest.importorskip("torch")
from tests.models import torch_networks  # noqa: E402

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE_MEAN = (103.939 / 255, 116.779 / 255, 123.68 / 255)  # of blue, green, red


def _close(ours: np.ndarray, reference: np.ndarray) -> None:
    scale = max(1.0, np.abs(reference).max())
    assert np.ptp(reference) > 0.1
    np.testing.assert_allclose(ours / scale, reference / scale, rtol=0, atol=1e-5)


def _saved(network, path) -> str:
    torch.save(network.state_dict(), path)
    return str(path)


@pytest.mark.parametrize(("name", "image_size"), [("resnet18", 64), ("resnet18", 75), ("resnet34", 64)])
def test_resnet(name, image_size, tmp_path):
    network = torch_networks.randomize(torch_networks.ResNet(torch_networks.RESNETS[name], num_classes=7))
    model = models.build(name, 7, image_size=image_size)
    weights.load(model, name, _saved(network, tmp_path / f"{name}.pth"), include_head=True)
    batch = pixels(2, image_size, 3)

    _close(np.asarray(model(batch, training=False)), torch_networks.logits(network, batch, MEAN, STD))


@pytest.mark.parametrize("name", ["resnet50", "resnet101", "resnet152"])
def test_a_narrow_resnet_of_the_full_depth(name):
    network = torch_networks.randomize(torch_networks.DeepResNet(torch_networks.DEEP_RESNETS[name], 4, num_classes=7))
    design = {"resnet50": resnet.RESNET50, "resnet101": resnet.RESNET101, "resnet152": resnet.RESNET152}[name]
    backbone = resnet.backbone(40, 3, dataclasses.replace(design, filters=4))
    model = compose(models.find(name), 40, backbone, pooled_head(backbone, 7))
    values = weight_formats.from_state_dict(
        {key: value.numpy() for key, value in network.state_dict().items()}, "torch_resnet"
    )
    for layer in [*layers_with_weights(backbone), *layers_with_weights(model.get_layer("head"))]:
        layer.set_weights(values.pop(layer.name))
    batch = pixels(2, 40, 3)

    assert not values
    reference = torch_networks.logits(network, batch[..., ::-1].copy(), CAFFE_MEAN, (1 / 255,))
    _close(np.asarray(model(batch, training=False)), reference)


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory):
    network = torch_networks.randomize(torch_networks.AlexNet(num_classes=7))
    return network, _saved(network, tmp_path_factory.mktemp("alexnet") / "alexnet.pth")


@pytest.mark.parametrize("image_size", [224, 100, 320])
def test_alexnet_also_where_its_maps_are_pooled_to_6x6(alexnet, image_size):
    network, path = alexnet
    model = models.build("alexnet_owt", 7, image_size=image_size)
    weights.load(model, "alexnet_owt", path, include_head=True)
    batch = pixels(2, image_size, 3)

    _close(np.asarray(model(batch, training=False)), torch_networks.logits(network, batch, MEAN, STD))


def test_lenet5():
    network = torch_networks.randomize(torch_networks.LeNet5())
    model = models.build("lenet5", 10)
    parts = [model.get_layer("backbone"), model.get_layer("head")]
    for part in parts:
        for layer in part.layers:
            if layer.weights:
                module = getattr(network, layer.name)
                # C5 is a convolution there: its kernel (out, in, 5, 5) in our order of rows, columns, maps.
                kernel = module.weight.detach().numpy()
                kernel = kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T
                layer.set_weights([kernel.reshape(layer.kernel.shape), module.bias.detach().numpy()])
    batch = pixels(4, 32, 1)

    _close(np.asarray(model(batch, training=False)), torch_networks.logits(network, batch, (20 / 255,), (200 / 255,)))


def test_local_response_normalization_is_torchs_with_alpha_over_five():
    x = np.random.RandomState(0).standard_normal((2, 3, 3, 9)).astype("float32") * 30
    expected = torch.nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2)(torch.tensor(x).permute(0, 3, 1, 2))

    maps = keras.Input(x.shape[1:])
    network = keras.Model(maps, local_response_normalization(maps, "norm"))

    np.testing.assert_allclose(network(x), expected.permute(0, 2, 3, 1), rtol=1e-5)


def test_a_state_dict_of_another_network_changes_nothing(alexnet, tmp_path):
    model = models.build("resnet18", 2, image_size=32)
    before = model.get_weights()
    deeper = torch_networks.ResNet(torch_networks.RESNETS["resnet34"], 2)
    for path in (alexnet[1], _saved(deeper, tmp_path / "resnet34.pth")):
        with pytest.raises(UserError, match="another network"):
            weights.load(model, "resnet18", path)
    wide = torch_networks.ResNet(torch_networks.RESNETS["resnet18"], 5)
    with pytest.raises(UserError, match=r"layer predictions has weights of shapes \[\(512, 5\), \(5,\)\] in it"):
        weights.load(model, "resnet18", _saved(wide, tmp_path / "resnet18.pth"), include_head=True)

    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_code_in_a_pickle_is_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / "resnet18-f37072fd.pth"
    torch.save({"conv1.weight": Payload()}, path)
    with pytest.raises(UserError, match="more than tensors"):
        weights.load(models.build("resnet18", 2, image_size=32), "resnet18", str(path))
    assert not (tmp_path / "ran").exists()


def test_what_is_no_state_dict_is_refused(tmp_path):
    model = models.build("resnet18", 2, image_size=32)
    cut, text, tensor = tmp_path / "cut.pth", tmp_path / "text.pth", tmp_path / "tensor.pth"
    torch.save({"conv1.weight": torch.zeros(100, 100)}, cut)
    cut.write_bytes(cut.read_bytes()[:1000])
    text.write_text("<html>404</html>")
    torch.save(torch.zeros(2), tensor)
    for path in (cut, text, tensor):
        with pytest.raises(UserError, match=f"{path.name} can't be used for --model=resnet18"):
            weights.load(model, "resnet18", str(path))


@pytest.mark.parametrize("name", ["squeezenet", "resnet50", "vgg16"])
def test_torchvisions_other_variants_are_refused(name, tmp_path):
    path = tmp_path / "any.pth"
    torch.save({"conv1.weight": torch.zeros(2)}, path)
    model = models.build(name, 2, image_size=32, transfer=True)
    with pytest.raises(UserError, match="not the same network"):
        weights.load(model, name, str(path))
