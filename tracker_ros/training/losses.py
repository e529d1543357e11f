# SPDX-License-Identifier: Apache-2.0
"""Training losses of the one-stream trackers: 2 GIoU + 5 L1 + 1 focal.

Paper: Ye et al., ECCV 2022, section 3.4 (https://arxiv.org/abs/2203.11991). Official code:
https://github.com/botaoye/OSTrack (MIT), `lib/train/actors/ostrack.py`, `lib/utils/focal_loss.py`,
`lib/utils/box_ops.py`; written anew.

What differs on purpose: an inverted box counts as empty; the official code asserts there and then
swallows every exception, putting the loss to 0.

Score labels: a Gaussian around the cell of the target's centre.

Paper: Law and Deng, "CornerNet", ECCV 2018, section 3.2 (https://arxiv.org/abs/1808.01244).
Official code: OSTrack (MIT), `lib/utils/heapmap_utils.py`; written anew, for whole batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tracker_ros.geometry import cxcywh_to_xyxy, xywh_to_cxcywh, xywh_to_xyxy


def focal_loss(score: Tensor, heatmap: Tensor, alpha: float = 2.0, beta: float = 4.0) -> Tensor:
    """Penalty-reduced focal loss (CornerNet, equation 1).

    Args:
        score: (B, 1, n, n) predicted scores in (0, 1).
        heatmap: (B, 1, n, n) labels; exactly 1 at positives, less around them.
        alpha: Exponent that lowers the weight of easy cells.
        beta: Exponent that lowers the weight of cells near a positive.

    Returns:
        Scalar, over the number of positives of the batch (over 1 where there is none).
    """
    score = score.clamp(min=1e-12)
    positive = heatmap.eq(1.0)
    hit = torch.log(score) * (1.0 - score) ** alpha
    miss = torch.log(1.0 - score) * score**alpha * (1.0 - heatmap) ** beta
    count = positive.sum().clamp(min=1)
    return -torch.where(positive, hit, miss).sum() / count


def generalized_iou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Generalised IoU and IoU of boxes pair by pair.

    Args:
        a: (N, 4) xyxy.
        b: (N, 4) xyxy.

    Returns:
        GIoU (N,) in [-1, 1] and IoU (N,) in [0, 1].
    """
    extent_a = (a[:, 2:] - a[:, :2]).clamp(min=0)
    extent_b = (b[:, 2:] - b[:, :2]).clamp(min=0)
    overlap = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0)
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).clamp(min=0)
    smallest = torch.finfo(a.dtype).tiny
    intersection = overlap.prod(dim=1)
    union = extent_a.prod(dim=1) + extent_b.prod(dim=1) - intersection
    enclosing = hull.prod(dim=1).clamp(min=smallest)
    iou = intersection / union.clamp(min=smallest)
    return iou - (enclosing - union) / enclosing, iou


def giou_loss(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of 1 - GIoU over (N, 4) xyxy boxes, and their IoU (N,)."""
    giou, iou = generalized_iou(predicted, target)
    return (1.0 - giou).mean(), iou


@dataclass(frozen=True)
class LossTerms:
    """Scalars of one batch; `total` is what is differentiated."""

    total: Tensor
    giou: Tensor
    l1: Tensor
    focal: Tensor
    mean_iou: Tensor


@dataclass(frozen=True)
class TrackingLoss:
    """The weighted sum of the three losses."""

    giou_weight: float = 2.0
    l1_weight: float = 5.0
    focal_weight: float = 1.0

    def __call__(self, prediction: dict[str, Tensor], gt_boxes_xywh: Tensor) -> LossTerms:
        """Loss of a network's output.

        Args:
            prediction: `score_map` (B, 1, n, n) and `pred_boxes` (B, Q, 4) cxcywh, as fractions of
                the search crop.
            gt_boxes_xywh: (B, 4) target boxes as fractions of the search crop.
        """
        score = prediction["score_map"].float()
        boxes = prediction["pred_boxes"].float()
        queries = boxes.shape[1]
        predicted = cxcywh_to_xyxy(boxes).flatten(0, 1)
        target = xywh_to_xyxy(gt_boxes_xywh.float()).clamp(0.0, 1.0)
        target = target.repeat_interleave(queries, dim=0)
        giou, iou = giou_loss(predicted, target)
        l1 = F.l1_loss(predicted, target)
        heatmap = center_heatmap(gt_boxes_xywh.float(), score.shape[-1])
        focal = focal_loss(score, heatmap.unsqueeze(1))
        total = self.giou_weight * giou + self.l1_weight * l1 + self.focal_weight * focal
        return LossTerms(total, giou, l1, focal, iou.detach().mean())


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
