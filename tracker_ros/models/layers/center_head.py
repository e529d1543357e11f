# SPDX-License-Identifier: Apache-2.0
"""Centre head: score, offset and size maps, and the box decoded from them.

Paper: Ye et al., ECCV 2022, section 3.2 (https://arxiv.org/abs/2203.11991), after CenterNet.
Official code: https://github.com/botaoye/OSTrack (MIT), `lib/models/layers/head.py`
(`CenterPredictor`); written anew with the same parameter names.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tracker_ros.models.layers.head_maps import HeadMaps

__all__ = ["BRANCHES", "CenterHead", "HeadMaps", "boxes_at_cells", "clamped_sigmoid", "decode_box"]

BRANCHES = ("ctr", "offset", "size")
_OUTPUTS = {"ctr": 1, "offset": 2, "size": 2}


def clamped_sigmoid(logits: Tensor) -> Tensor:
    """Return the sigmoid, clamped to [1e-4, 1 - 1e-4]."""
    return logits.sigmoid().clamp(1e-4, 1.0 - 1e-4)


def _at_least_single(values: Tensor) -> Tensor:
    """Return half-precision values as float32: positions need more digits than they have."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def boxes_at_cells(size: Tensor, offset: Tensor, cell: Tensor) -> Tensor:
    """Return one box per sample.

    Args:
        size: (B, 2, n, n) width and height as fractions of the search crop.
        offset: (B, 2, n, n) x and y of the centre within its cell, in cells.
        cell: (B,) int64 flat index, row * n + column.

    Returns:
        (B, 4) cxcywh as fractions of the search crop. No half cell is added: offset 0 in cell
        (r, c) means a centre at (c / n, r / n).
    """
    n = size.shape[-1]
    place = cell[:, None, None].expand(-1, 2, 1)
    extent = size.flatten(2).gather(2, place).squeeze(-1)
    within = offset.flatten(2).gather(2, place).squeeze(-1)
    corner = torch.stack([cell % n, torch.div(cell, n, rounding_mode="floor")], dim=1)
    return torch.cat([(corner.to(within.dtype) + within) / n, extent.to(within.dtype)], dim=1)


def decode_box(score: Tensor, maps: HeadMaps) -> Tensor:
    """Return the box at the maximum of `score`; see `boxes_at_cells`.

    The score map (B, 1, n, n) is plain or multiplied by a window; size and offset are read from
    the maps where it peaks.
    """
    return boxes_at_cells(maps.size, maps.offset, score.flatten(1).argmax(dim=1))


def _conv_norm_relu(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class CenterHead(nn.Module):
    """Three branches of four 3 x 3 convolutions and one 1 x 1 convolution each.

    Args:
        embed_dim: Channels of the search tokens.
        channels: Channels of each branch's first convolution; each further one has half as many.
    """

    def __init__(self, embed_dim: int, channels: int) -> None:
        super().__init__()
        for branch in BRANCHES:
            widths = [embed_dim, channels, channels // 2, channels // 4, channels // 8]
            for i in range(4):
                layer = _conv_norm_relu(widths[i], widths[i + 1])
                self.add_module(f"conv{i + 1}_{branch}", layer)
            self.add_module(f"conv5_{branch}", nn.Conv2d(widths[4], _OUTPUTS[branch], 1))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def branch(self, name: str, features: Tensor) -> Tensor:
        """Return the raw output of one branch: (B, 1 or 2, n, n)."""
        for i in range(1, 6):
            features = getattr(self, f"conv{i}_{name}")(features)
        return features

    def forward(self, features: Tensor) -> HeadMaps:
        """(B, C, n, n) search features -> maps, in float32 or wider."""
        return self.maps(features, features, features)

    def maps(self, ctr: Tensor, offset: Tensor, size: Tensor) -> HeadMaps:
        """Return the maps from one input per branch, each (B, ., n, n)."""
        return HeadMaps(
            score=clamped_sigmoid(_at_least_single(self.branch("ctr", ctr))),
            size=clamped_sigmoid(_at_least_single(self.branch("size", size))),
            offset=_at_least_single(self.branch("offset", offset)),
        )
