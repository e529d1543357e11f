# SPDX-License-Identifier: Apache-2.0
"""The first thirteen blocks of MobileNetV2, with batch norm folded into the convolutions.

Paper: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018
(https://arxiv.org/abs/1801.04381). Written for this package. Padding is TensorFlow's "SAME", since
the weights come from there: a convolution of stride 2 pads at the right and at the bottom only, so
sides must be multiples of the stride.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1))
"""Expansion, output channels, number of blocks and first stride of each group."""
STEM_CHANNELS = 32
FINE_CHANNELS, COARSE_CHANNELS = 32, 96
"""Channels of the features at stride 8 and at stride 16."""
CEILING = 6.0
"""Of the activation, ReLU6."""


class SamePadConv(nn.Conv2d):
    """A convolution with TensorFlow's padding, and ReLU6 unless it is told otherwise."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        activated: bool = True,
    ) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups)
        self.activated = activated

    def forward(self, image: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        if self.stride[0] > 1:
            image = F.pad(image, (0, 1, 0, 1))
        result = super().forward(image)
        return F.hardtanh(result, 0.0, CEILING, inplace=True) if self.activated else result


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and linear projection.

    Args:
        inputs: Channels.
        outputs: Channels.
        expansion: Channels of the depthwise convolution over those of the input.
        stride: Of the depthwise convolution.
    """

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.expand = SamePadConv(inputs, hidden, 1) if expansion > 1 else nn.Identity()
        self.depthwise = SamePadConv(hidden, hidden, 3, stride=stride, groups=hidden)
        self.project = SamePadConv(hidden, outputs, 1, activated=False)

    def forward(self, image: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        result = self.project(self.depthwise(self.expand(image)))
        return image + result if self.residual else result


class MobileNetV2Body(nn.Module):
    """Images to features at stride 8 and at stride 16."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SamePadConv(3, STEM_CHANNELS, 3, stride=2)
        self.groups = nn.ModuleList()
        inputs = STEM_CHANNELS
        for expansion, outputs, count, stride in GROUPS:
            blocks = []
            for index in range(count):
                blocks.append(
                    InvertedResidual(inputs, outputs, expansion, stride if index == 0 else 1)
                )
                inputs = outputs
            self.groups.append(nn.Sequential(*blocks))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) RGB in [-1, 1] -> (B, 32, H / 8, W / 8) and (B, 96, H / 16, W / 16)."""
        features = self.stem(image)
        for group in self.groups[:3]:
            features = group(features)
        fine = features
        for group in self.groups[3:]:
            features = group(features)
        return fine, features
