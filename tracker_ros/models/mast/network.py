# SPDX-License-Identifier: Apache-2.0
"""The features that MAST matches: a residual network of stride 4 without pooling.

Paper: Lai, Lu, Xie, "MAST: A Memory-Augmented Self-Supervised Tracker", CVPR 2020
(https://arxiv.org/abs/2002.07793). Official code: https://github.com/zlai0/MAST, which states no
licence; nothing of it is used. Written anew from the paper and the layout of its weights files,
whose 116 keys and shapes are kept.

Images enter in CIE Lab, of any size; features leave unnormalised. `MASTInference` gives the same
numbers up to rounding, with norms folded and weights laid out for oneDNN.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracker_ros.models.layers.packed import can_pack, for_inference, in_float32
from tracker_ros.models.mast.config import MASTConfig
from tracker_ros.models.mast.images import network_input


def _conv_norm(inputs: int, outputs: int, side: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside the input, or its projection where shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.left = nn.Sequential(
            *_conv_norm(inputs, outputs, 3, stride),
            nn.ReLU(inplace=True),
            *_conv_norm(outputs, outputs, 3, 1),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(*_conv_norm(inputs, outputs, 1, stride))

    def forward(self, image: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, ceil(H / stride), ceil(W / stride))."""
        return F.relu(self.left(image) + self.shortcut(image))


class Backbone(nn.Module):
    """Stem of stride 2 and four stages, the second of stride 2."""

    def __init__(self, config: MASTConfig) -> None:
        super().__init__()
        inputs = config.widths[0]
        self.conv1 = nn.Sequential(*_conv_norm(3, inputs, 7, 2), nn.ReLU(inplace=True))
        for stage, width in enumerate(config.widths[1:], start=1):
            blocks = nn.Sequential()
            for index in range(config.blocks):
                halves = stage == 2 and index == 0
                blocks.append(ResidualBlock(inputs, width, 2 if halves else 1))
                inputs = width
            self.add_module(f"layer{stage}", blocks)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) normalised Lab -> (N, widths[4], ceil(H / 4), ceil(W / 4))."""
        for layer in self.children():
            images = layer(images)
        return images


class MASTNetwork(nn.Module):
    """Backbone and the convolution that narrows its channels."""

    def __init__(self, config: MASTConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_extraction = Backbone(config)
        self.post_convolution = nn.Conv2d(config.widths[-1], config.feature_dim, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) normalised Lab -> (N, feature_dim, ceil(H / 4), ceil(W / 4))."""
        return self.post_convolution(self.feature_extraction(images))


class MASTInference:
    """Computes the features of one image at a time with a copy of a loaded network."""

    def __init__(self, network: MASTNetwork, device: torch.device) -> None:
        self.device = device
        self._packed = can_pack(device)
        self._network = for_inference(copy.deepcopy(network).to(device), packed=self._packed)

    @torch.inference_mode()
    @in_float32
    def features(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 RGB -> (1, C, ceil(H / 4), ceil(W / 4)) float32."""
        return self._network(torch.from_numpy(network_input(image)).to(self.device))

    @property
    def runtime_info(self) -> dict[str, str]:
        """Back end, device and precision in use."""
        return {"backend": "torch", "device": str(self.device), "precision": "fp32"}
