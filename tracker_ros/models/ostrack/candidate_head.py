# SPDX-License-Identifier: Apache-2.0
"""Centre head over the candidates that elimination left, for inference on a CPU.

The official head runs dense convolutions over a map in which every removed token is zero. Its
first convolution, by far the largest, is done here as one matrix product over the tokens that are
left, for all three branches and nine taps at once, followed by a sum of each product into the cell
it belongs to. The numbers are the same; two thirds of that convolution's work was with zeros.

Paper and official code of the head: see `center_head.py`. The rearrangement is this package's own.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tracker_ros.models.center_head import BRANCHES, CenterHead, HeadMaps
from tracker_ros.models.reduced_precision import Layers


def _folded(layer: nn.Module) -> nn.Conv2d:
    """The convolution of a `conv, norm, ReLU` chain with its norm folded in."""
    conv, norm, _ = cast(Any, layer)
    return fuse_conv_bn_eval(conv, norm)


class CandidateHead:
    """`CenterHead` with fixed weights, given tokens and their places instead of a map.

    Args:
        head: Loaded, in eval mode; its modules are taken over and changed.
        grid: n, cells along one side.
        layers: Makes its layers.
    """

    def __init__(self, head: CenterHead, grid: int, layers: Layers) -> None:
        first = [_folded(head.get_submodule(f"conv1_{branch}")) for branch in BRANCHES]
        weight = torch.cat([conv.weight for conv in first])  # (outputs, inputs, 3, 3)
        outputs, inputs = weight.shape[:2]
        by_tap = weight.permute(2, 3, 0, 1).reshape(9 * outputs, inputs)
        self.first = layers.linear(by_tap, None)
        self.first_bias = torch.cat([cast(Tensor, conv.bias) for conv in first]).detach()
        for branch in BRANCHES:
            setattr(head, f"conv1_{branch}", nn.Identity())
        layers.fix_head(head)
        self.rest = head
        self.grid = grid
        tap = torch.arange(9)
        # Where a tap's product lands, relative to its token, in a map with a border of one cell.
        self.landing = (2 - tap // 3) * (grid + 2) + 2 - tap % 3

    def __call__(self, tokens: Tensor, position: Tensor) -> HeadMaps:
        """Maps of the tokens that are left.

        Args:
            tokens: (B, k, C), after the last norm.
            position: (B, k) their raster positions.
        """
        n, batch = self.grid, len(tokens)
        outputs = len(self.first_bias)
        products = self.first(tokens.flatten(0, 1)).float().view(-1, outputs)
        corner = torch.div(position, n, rounding_mode="floor") * (n + 2) + position % n
        corner = corner + torch.arange(batch)[:, None] * (n + 2) ** 2
        cell = (corner[..., None] + self.landing).flatten()
        bordered = products.new_zeros(batch * (n + 2) ** 2, outputs).index_add_(0, cell, products)
        summed = bordered.view(batch, n + 2, n + 2, outputs)[:, 1:-1, 1:-1] + self.first_bias
        features = F.relu(summed).permute(0, 3, 1, 2)
        ctr, offset, size = features.chunk(len(BRANCHES), dim=1)
        return self.rest.maps(ctr, offset, size)
