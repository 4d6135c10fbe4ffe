"""The papers' networks in PyTorch, written from their tables, with torchvision's module names."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

RESNETS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
DEEP_RESNETS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}


class BasicBlock(nn.Module):
    def __init__(self, before: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, filters, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.downsample = None
        if stride != 1 or before != filters:
            self.downsample = nn.Sequential(nn.Conv2d(before, filters, 1, stride, bias=False), nn.BatchNorm2d(filters))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(x)) + shortcut)


class Bottleneck(nn.Module):
    """He et al. 2015, figure 5 on the right, with the options of the paper's Caffe files: version 1, with biases."""

    def __init__(self, before: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, filters, 1, stride)
        self.bn1 = nn.BatchNorm2d(filters, eps=1.001e-5)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1)
        self.bn2 = nn.BatchNorm2d(filters, eps=1.001e-5)
        self.conv3 = nn.Conv2d(filters, 4 * filters, 1)
        self.bn3 = nn.BatchNorm2d(4 * filters, eps=1.001e-5)
        self.downsample = None
        if before != 4 * filters:
            projection = nn.Conv2d(before, 4 * filters, 1, stride)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(4 * filters, eps=1.001e-5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return torch.relu(self.bn3(self.conv3(x)) + shortcut)


class _Stages(nn.Module):
    """He et al. 2015, table 1: a stem, four stages, each twice as wide as the one before, and one linear layer."""

    def __init__(
        self, block: type[nn.Module], repeats: tuple[int, ...], filters: int, num_classes: int, **options: Any
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, filters, 7, 2, 3, bias=options["bias"])
        self.bn1 = nn.BatchNorm2d(filters, eps=options["eps"])
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        before = filters
        for stage, blocks in enumerate(repeats):
            width = filters * 2**stage
            stack = []
            for number in range(blocks):
                stack.append(block(before, width, 2 if stage and not number else 1))
                before = options["expansion"] * width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*stack))
        self.fc = nn.Linear(before, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.fc(x.mean((2, 3)))


class DeepResNet(_Stages):
    """The columns of 50, 101 and 152 layers, with the options of the paper's Caffe files; `filters` is 64 there."""

    def __init__(self, repeats: tuple[int, ...], filters: int, num_classes: int) -> None:
        super().__init__(Bottleneck, repeats, filters, num_classes, bias=True, eps=1.001e-5, expansion=4)


class ResNet(_Stages):
    """The columns of 18 and 34 layers, with the options of torchvision."""

    def __init__(self, repeats: tuple[int, ...], num_classes: int) -> None:
        super().__init__(BasicBlock, repeats, 64, num_classes, bias=False, eps=1e-5, expansion=1)


class AlexNet(nn.Module):
    """Krizhevsky 2014: one column of the widths 64, 192, 384, 256, 256."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        pool = [nn.ReLU(), nn.MaxPool2d(3, 2)]
        self.features = nn.Sequential(
            *[nn.Conv2d(3, 64, 11, 4, 2), *pool],
            *[nn.Conv2d(64, 192, 5, 1, 2), *pool],
            *[nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU()],
            *[nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU()],
            *[nn.Conv2d(256, 256, 3, 1, 1), *pool],
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            *[nn.Dropout(), nn.Linear(256 * 36, 4096), nn.ReLU()],
            *[nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU()],
            nn.Linear(4096, num_classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


class LeNet5(nn.Module):
    """LeCun et al. 1998, figure 2, with the full C3; C5 is the 5x5 convolution that the paper says it is."""

    def __init__(self) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(1, 6, 5)
        self.c3 = nn.Conv2d(6, 16, 5)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.f6 = nn.Linear(120, 84)
        self.predictions = nn.Linear(84, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.avg_pool2d(torch.tanh(self.c1(x)), 2)
        x = nn.functional.avg_pool2d(torch.tanh(self.c3(x)), 2)
        x = torch.tanh(self.c5(x)).flatten(1)
        return self.predictions(torch.tanh(self.f6(x)))


def randomize(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights that keep activations near 1, and BatchNorm statistics that matter; in inference mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if tensor.ndim > 1:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / tensor[0].numel()) ** 0.5)
        elif name.endswith("running_var") or ("bn" in name or "downsample.1" in name) and name.endswith("weight"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return network.eval()


def logits(network: nn.Module, pixels, mean: tuple[float, ...], std: tuple[float, ...]):
    """Pixels (batch, height, width, channels) in 0-255 -> NumPy logits; mean and std are of 0-1 values."""
    x = torch.tensor(pixels).permute(0, 3, 1, 2).float() / 255
    mean_, std_ = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))
    with torch.no_grad():
        return network((x - mean_) / std_).numpy()
