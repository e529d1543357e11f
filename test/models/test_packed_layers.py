# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tracker_ros.models.layers.packed import (
    InferenceConv,
    InferenceLinear,
    can_pack,
    fix_linear_layers,
    for_inference,
)
from tracker_ros.models.layers.vit import Block

layouts = pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])


def test_packing_is_for_cpus() -> None:
    assert can_pack(torch.device("cpu"))
    assert not can_pack(torch.device("cuda", 0))


@layouts
@torch.inference_mode()
def test_linear(packed: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(24, 40)
    layer = InferenceLinear(linear.weight, linear.bias, packed=packed)
    for rows in (7, 3):
        tokens = torch.randn(1, rows, 24)
        torch.testing.assert_close(layer(tokens), linear(tokens), rtol=0, atol=1e-6)


@layouts
@torch.inference_mode()
def test_the_layers_of_a_block_are_fixed_but_for_some(packed: bool) -> None:
    torch.manual_seed(0)
    block = Block(embed_dim=24, num_heads=3, mlp_ratio=2.0, layer_norm_eps=1e-6).eval()
    fixed = copy.deepcopy(block)
    fix_linear_layers(fixed, packed=packed, but=["fc2"])
    kept = [name for name, layer in fixed.named_modules() if isinstance(layer, nn.Linear)]
    assert kept == ["mlp.fc2"]
    tokens = torch.randn(2, 7, 24)
    for first in (0, 3):
        wanted = block(tokens, first=first)
        torch.testing.assert_close(fixed(tokens, first=first), wanted, rtol=0, atol=1e-6)


class Branching(nn.Module):
    """Convolutions alone, in chains with and without norm and activation, and nested."""

    def __init__(self) -> None:
        super().__init__()
        self.alone = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.chain = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 1),
            nn.ReLU(),
            nn.Sequential(nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4)),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.chain(self.alone(image))


@layouts
@torch.inference_mode()
def test_folded_modules_give_the_same_numbers(packed: bool) -> None:
    torch.manual_seed(0)
    module = Branching().eval()
    for norm in (module.chain[1], module.chain[5][1]):
        nn.init.uniform_(norm.running_mean, -1.0, 1.0)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
        nn.init.uniform_(norm.weight, 0.5, 2.0)
    folded = for_inference(copy.deepcopy(module), packed=packed)
    assert not any(isinstance(m, (nn.BatchNorm2d, nn.Conv2d)) for m in folded.modules())
    for size in (16, 12):
        image = torch.randn(1, 3, size, size)
        torch.testing.assert_close(folded(image), module(image), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_a_convolution_takes_images_of_any_size_in_any_order() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 32, 3, stride=2, padding=1)
    packed = InferenceConv(conv, packed=True)
    for side in (12, 24, 6, 40):
        image = torch.randn(2, 16, side, side)
        torch.testing.assert_close(packed(image), conv(image), rtol=0, atol=1e-5)
