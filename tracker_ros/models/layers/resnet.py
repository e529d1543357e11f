# SPDX-License-Identifier: Apache-2.0
"""The residual network that TrDiMP reads features from.

Paper: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016
(https://arxiv.org/abs/1512.03385); in TrDiMP `ltr/models/backbone/resnet.py` of
https://github.com/594422814/TransformerTrack (MIT). Written anew with the official state-dict keys
and shapes. The stride of a bottleneck is on its 3 x 3 convolution.

Tracking reads the second and the third stage. The official weights file also holds the fourth
stage and the classifier; they are built where the configuration asks for them and never run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from tracker_ros.models.trdimp.config import TrDiMPConfig

_CLASSES = 1000


class Features(NamedTuple):
    """Features of N images."""

    layer2: Tensor  # (N, C2, S / 8, S / 8), read only by the IoU branch
    layer3: Tensor  # (N, C3, S / 16, S / 16)


class ResidualBlock(nn.Module, ABC):
    """Adds a learned branch to the input, or to its projection where shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    @abstractmethod
    def branch(self, image: Tensor) -> Tensor:
        """Return the learned residual of `image`, before the sum."""

    def forward(self, image: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        shortcut = image if self.downsample is None else self.downsample(image)
        return F.relu(self.branch(image) + shortcut)


class BasicBlock(ResidualBlock):
    """Two 3 x 3 convolutions with `width` output channels."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__(inputs, width, stride)
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def branch(self, image: Tensor) -> Tensor:
        """See `ResidualBlock`."""
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(image)))))


class Bottleneck(ResidualBlock):
    """A 3 x 3 convolution between two 1 x 1 ones, with `4 * width` output channels."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__(inputs, 4 * width, stride)
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)

    def branch(self, image: Tensor) -> Tensor:
        """See `ResidualBlock`."""
        image = F.relu(self.bn1(self.conv1(image)))
        return self.bn3(self.conv3(F.relu(self.bn2(self.conv2(image)))))


class ResNet(nn.Module):
    """Stem and residual stages.

    Convolutions are initialised as He et al. propose and every block as the identity (the weight
    of its last norm is 0), so that a network can be trained from scratch. Raises ValueError if the
    kind of block is neither "bottleneck" nor "basic".
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential

    def __init__(self, config: TrDiMPConfig) -> None:
        super().__init__()
        kinds = {"bottleneck": Bottleneck, "basic": BasicBlock}
        if config.block not in kinds:
            raise ValueError(f"block is {config.block!r}; expected one of {', '.join(kinds)}")
        kind, width = kinds[config.block], config.width
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        inputs = width
        stages = 4 if config.whole_classifier else 3
        for stage, count in enumerate(config.layers[:stages]):
            inside, blocks = width << stage, nn.Sequential()
            for index in range(count):
                blocks.append(kind(inputs, inside, 2 if stage and not index else 1))
                inputs = inside * config.expansion
            self.add_module(f"layer{stage + 1}", blocks)
        if config.whole_classifier:
            self.fc = nn.Linear(inputs, _CLASSES)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)
            elif isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)

    def forward(self, images: Tensor) -> Features:
        """Return features of (N, 3, S, S) normalised RGB; S is a multiple of 16."""
        image = self.maxpool(F.relu(self.bn1(self.conv1(images))))
        layer2 = self.layer2(self.layer1(image))
        return Features(layer2, self.layer3(layer2))
