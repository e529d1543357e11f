# SPDX-License-Identifier: Apache-2.0
"""Loss of a batch of pairs in which the target may be absent.

The terms are OSTrack's (`losses.py`). What differs on purpose: boxes are read at the target's own
cell and at one random neighbour instead of the predicted peak, so that size and offset learn from
the first step and stay right where the peak is off by one cell; samples without a target train the
score map alone, which is what makes a low score mean "lost".
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tracker_ros.boxes import cxcywh_to_xyxy, xywh_to_cxcywh, xywh_to_xyxy
from tracker_ros.models.center_head import boxes_at_cells
from tracker_ros.training.heatmap import center_heatmap
from tracker_ros.training.losses import TrackingLoss, focal_loss, giou_loss

NEIGHBOUR_WEIGHT = 0.5


def boxes_at(prediction: dict[str, Tensor], cell: Tensor) -> Tensor:
    """Read boxes at given cells.

    Args:
        prediction: `size_map` and `offset_map`, both (B, 2, n, n).
        cell: (B, 2) int64 column and row.

    Returns:
        (B, 4) cxcywh as fractions of the search crop.
    """
    size, offset = (prediction[name].float() for name in ("size_map", "offset_map"))
    return boxes_at_cells(size, offset, cell[:, 1] * size.shape[-1] + cell[:, 0])


def pair_losses(
    prediction: dict[str, Tensor],
    boxes: Tensor,
    present: Tensor,
    weights: TrackingLoss | None = None,
) -> dict[str, Tensor]:
    """Loss terms of a batch.

    Args:
        prediction: The network's `score_map`, `size_map` and `offset_map`.
        boxes: (B, 4) xywh, fractions of the search crop.
        present: (B,) bool.
        weights: Weights of the terms; OSTrack's by default.

    Returns:
        Scalars `total`, `giou`, `l1`, `focal` and, without gradient, `iou`.
    """
    weights = weights or TrackingLoss()
    score = prediction["score_map"].float()
    n = score.shape[-1]
    heatmap = center_heatmap(boxes, n) * present[:, None, None]
    focal = focal_loss(score, heatmap[:, None])
    rows = torch.where(present)[0]
    maps = {name: prediction[name][rows] for name in ("size_map", "offset_map")}
    target = xywh_to_xyxy(boxes[rows]).clamp(0, 1)
    centre = xywh_to_cxcywh(boxes[rows])[:, :2] * n
    cell = centre.round().long().clamp(0, n - 1)
    step = torch.randint(-1, 2, cell.shape, device=cell.device)
    near = (cell + step).clamp(0, n - 1)
    giou = l1 = score.new_zeros(())
    iou = score.new_zeros(len(rows))
    for place, weight in ((cell, 1.0), (near, NEIGHBOUR_WEIGHT)):
        if not len(rows):
            break
        predicted = cxcywh_to_xyxy(boxes_at(maps, place))
        term, overlap = giou_loss(predicted, target)
        giou = giou + weight * term
        l1 = l1 + weight * F.l1_loss(predicted, target)
        iou = torch.maximum(iou, overlap.detach())
    total = weights.giou_weight * giou + weights.l1_weight * l1 + weights.focal_weight * focal
    mean_iou = iou.mean() if len(rows) else iou.sum()
    return {"total": total, "giou": giou, "l1": l1, "focal": focal, "iou": mean_iou}
