# SPDX-License-Identifier: Apache-2.0
"""The backbone as a tracker runs it: `resnet.py`'s numbers with batch norms folded away.

Paper and official code: see `resnet.py`. Written for this package. Batch norms are folded into the
convolutions, which also do the activations and the sums of the residual blocks; images are laid
out with the channels innermost, as the matrix library likes it best and as the transformer reads
them. The stages that tracking does not run are not kept.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tracker_ros.models.layers.packed import InferenceConv
from tracker_ros.models.layers.resnet import Bottleneck, Features, ResidualBlock, ResNet


class FixedBlock:
    """One residual block.

    Args:
        block: Loaded, in eval mode.
        packed: Lay weights out for oneDNN.
    """

    def __init__(self, block: ResidualBlock, *, packed: bool) -> None:
        names = ("1", "2", "3") if isinstance(block, Bottleneck) else ("1", "2")
        pairs = [(getattr(block, f"conv{n}"), getattr(block, f"bn{n}")) for n in names]
        self.convolutions = [_folded(*pair, packed=packed, relu=True) for pair in pairs]
        self.downsample: InferenceConv | None = None
        if isinstance(block.downsample, nn.Sequential):
            self.downsample = _folded(*block.downsample, packed=packed, relu=False)

    def __call__(self, image: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        shortcut = image if self.downsample is None else self.downsample(image)
        for convolution in self.convolutions[:-1]:
            image = convolution(image)
        return self.convolutions[-1](image, plus=shortcut)


class FixedResNet:
    """Stem and the three stages that tracking runs.

    Args:
        backbone: Loaded, in eval mode.
        packed: Lay weights out for oneDNN.
    """

    def __init__(self, backbone: ResNet, *, packed: bool) -> None:
        self.stem = _folded(backbone.conv1, backbone.bn1, packed=packed, relu=True)
        self.stages = [
            [
                FixedBlock(block, packed=packed)
                for block in stage
                if isinstance(block, ResidualBlock)
            ]
            for stage in (backbone.layer1, backbone.layer2, backbone.layer3)
        ]

    def __call__(self, images: Tensor) -> Features:
        """(N, 3, S, S) normalised RGB -> features of two stages, their channels innermost."""
        image = images.contiguous(memory_format=torch.channels_last)
        image = F.max_pool2d(self.stem(image), 3, stride=2, padding=1)
        outputs = []
        for stage in self.stages:
            for block in stage:
                image = block(image)
            outputs.append(image)
        return Features(outputs[1], outputs[2])


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d, *, packed: bool, relu: bool) -> InferenceConv:
    return InferenceConv(fuse_conv_bn_eval(conv, norm), packed=packed, relu=relu)
