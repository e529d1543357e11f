# SPDX-License-Identifier: Apache-2.0
"""Score labels: a Gaussian around the cell of the target's centre.

Paper: Law and Deng, "CornerNet", ECCV 2018, section 3.2 (https://arxiv.org/abs/1808.01244).
Official code: OSTrack (MIT), `lib/utils/heapmap_utils.py`; written anew, for whole batches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tracker_ros.boxes import xywh_to_cxcywh


def gaussian_radius(extent_wh: Tensor, min_overlap: float = 0.7) -> Tensor:
    """Radius within which a shifted box still overlaps the target's by `min_overlap`.

    The published formula solves three quadratics but divides each root by 2 where 2a is meant;
    networks were trained with the result, so it stays.

    Args:
        extent_wh: (..., 2) box extents in cells.
        min_overlap: Wanted IoU.

    Returns:
        (...) radius in cells, not rounded.
    """
    width, height = extent_wh[..., 0], extent_wh[..., 1]
    total, area = width + height, width * height
    a2, a3 = 4.0, 4.0 * min_overlap
    b1, b2, b3 = total, 2.0 * total, -2.0 * min_overlap * total
    c1 = area * (1.0 - min_overlap) / (1.0 + min_overlap)
    c2 = (1.0 - min_overlap) * area
    c3 = (min_overlap - 1.0) * area
    roots = [
        (b1 + torch.sqrt(b1**2 - 4.0 * c1)) / 2.0,
        (b2 + torch.sqrt(b2**2 - 4.0 * a2 * c2)) / 2.0,
        (b3 + torch.sqrt(b3**2 - 4.0 * a3 * c3)) / 2.0,
    ]
    return torch.stack(roots).amin(dim=0)


def center_heatmap(boxes_xywh: Tensor, grid: int) -> Tensor:
    """Labels of the score map.

    Args:
        boxes_xywh: (B, 4) float32 target boxes as fractions of the search crop.
        grid: n, cells along one side.

    Returns:
        (B, n, n) float32 in [0, 1], exactly 1 at the cell nearest to the centre (half to even).
        Where that cell lies outside the map no cell is 1.
    """
    extent = boxes_xywh[:, 2:] * grid
    centre = (xywh_to_cxcywh(boxes_xywh)[:, :2] * grid).round()
    radius = gaussian_radius(extent).trunc().clamp(min=0)
    sigma = ((2.0 * radius + 1.0) / 6.0)[:, None, None]
    cells = torch.arange(grid, device=boxes_xywh.device, dtype=boxes_xywh.dtype)
    dx = (cells - centre[:, :1])[:, None, :]
    dy = (cells - centre[:, 1:])[:, :, None]
    reach = radius[:, None, None]
    inside = (dx.abs() <= reach) & (dy.abs() <= reach)
    value = torch.exp(-(dx * dx + dy * dy) / (2.0 * sigma * sigma))
    return torch.where(inside, value, torch.zeros_like(value))
