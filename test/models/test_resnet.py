# SPDX-License-Identifier: Apache-2.0
"""The backbone of TrDiMP: what it is made of, and that folding its norms changes nothing."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from tracker_ros.models.layers.packed import for_inference
from tracker_ros.models.layers.resnet import ResNet
from tracker_ros.models.trdimp.config import RESNET50, TINY, TrDiMPConfig

BASIC = replace(TINY, width=8, layers=(1, 2, 2))
BOTTLENECK = replace(RESNET50, width=8, layers=(2, 1, 2), whole_classifier=False)


def make_resnet(config: TrDiMPConfig) -> ResNet:
    """A backbone in eval mode with norms that do something."""
    torch.manual_seed(0)
    backbone = ResNet(config).eval()
    for norm in backbone.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
            nn.init.uniform_(norm.weight, 0.5, 1.0)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
    return backbone


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("config", [BASIC, BOTTLENECK], ids=["basic", "bottleneck"])
@torch.inference_mode()
def test_folding_changes_nothing(config: TrDiMPConfig, packed: bool) -> None:
    backbone = make_resnet(config)
    images = torch.randn(2, 3, 64, 48)
    wanted = backbone(images)
    found = for_inference(deepcopy(backbone), packed=packed)(images)
    assert wanted.layer2.shape == (2, config.layer2_dim, 8, 6)
    assert wanted.layer3.shape == (2, config.layer3_dim, 4, 3)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize("config", [BASIC, BOTTLENECK], ids=["basic", "bottleneck"])
def test_untrained_blocks_hand_on_their_input(config: TrDiMPConfig) -> None:
    torch.manual_seed(0)
    backbone = ResNet(config).eval()
    image = torch.rand(1, config.layer3_dim, 5, 5)
    torch.testing.assert_close(backbone.layer3[-1](image), image)


def test_training_reaches_every_parameter() -> None:
    backbone = make_resnet(BASIC).train()
    features = backbone(torch.randn(2, 3, 64, 64))
    (features.layer2.square().mean() + features.layer3.square().mean()).backward()
    untouched = [
        name
        for name, parameter in backbone.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert untouched == []


def test_an_unknown_kind_of_block_is_refused() -> None:
    with pytest.raises(ValueError, match="block is 'wide'; expected one of bottleneck, basic"):
        ResNet(replace(TINY, block="wide"))
