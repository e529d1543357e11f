# SPDX-License-Identifier: Apache-2.0
"""Losses of trackers that learn online: hinge-like score loss, overlap regression, proposals.

Papers: Bhat et al., "Learning Discriminative Model Prediction for Tracking" (DiMP), ICCV 2019,
section 3.3 (https://arxiv.org/abs/1904.07220); Danelljan et al., "ATOM", CVPR 2019
(https://arxiv.org/abs/1811.07628), section 3.2. Weights and constants are the published ones but
for `IOU_WEIGHT`; written anew, for whole batches.

What differs on purpose: a target may be absent, and then trains the score map alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tracker_ros.geometry import cxcywh_to_xywh, xywh_to_cxcywh, xywh_to_xyxy
from tracker_ros.models.trdimp.target_filter import distances, target_centres
from tracker_ros.training.losses import generalized_iou

HINGE_THRESHOLD = 0.05
OUTPUT_SIGMA = 0.25
"""Standard deviation of the score label, target sides."""
FIRST_WEIGHT, STEPS_WEIGHT, LAST_WEIGHT = 100.0, 400.0, 100.0
"""Weights of the score loss: of the pooled filter, the mean of those between, the last one."""
IOU_WEIGHT = 10.0
"""Weight of the overlap loss; 1 as published, where the backbone is pretrained."""
PROPOSAL_SIGMAS = (0.01, 0.05, 0.1, 0.2, 0.3)
MIN_OVERLAP = 0.1
_TRIES = 6


def score_labels(
    boxes: Tensor, present: Tensor, size: int, target_side: float, stride: int, filter_size: int
) -> Tensor:
    """What a score map should look like.

    Args:
        boxes: (..., 4) xywh, crop pixels.
        present: (...) bool; the label of an absent target is zero everywhere.
        size: Cells along one side of the score map.
        target_side: Mean side of a target, cells.
        stride: Pixels per cell.
        filter_size: Side of the filter, cells.

    Returns:
        (..., size, size) in [0, 1].
    """
    distance = distances(target_centres(boxes, stride, filter_size), (size, size))
    label = torch.exp(-0.5 * (distance / (OUTPUT_SIGMA * target_side)) ** 2)
    return label * present[..., None, None]


def hinge_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error that forgives negative scores where the label says background."""
    background = labels < HINGE_THRESHOLD
    error = torch.where(background, scores.relu(), scores - labels)
    return error.square().mean()


def filter_loss(scores: list[Tensor], labels: Tensor) -> Tensor:
    """Score loss over the optimiser's steps, weighted.

    Args:
        scores: Maps of the pooled filter and of the filter after each step.
        labels: Of the same shape.
    """
    first, *rest = (hinge_loss(maps, labels) for maps in scores)
    if not rest:
        return FIRST_WEIGHT * first
    total = FIRST_WEIGHT * first + LAST_WEIGHT * rest[-1]
    between = rest[:-1]
    return total + STEPS_WEIGHT * torch.stack(between).mean() if between else total


def overlaps(proposals: Tensor, boxes: Tensor) -> Tensor:
    """IoU of (N, P, 4) xywh proposals with (N, 4) xywh boxes: (N, P)."""
    truth = boxes[:, None].expand_as(proposals)
    iou = generalized_iou(
        xywh_to_xyxy(proposals.flatten(0, 1)), xywh_to_xyxy(truth.flatten(0, 1))
    )[1]
    return iou.view(proposals.shape[:2])


def draw_proposals(boxes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Boxes around the truth, from near copies to poor guesses.

    Centre and size of each move by normal numbers of one deviation drawn from `PROPOSAL_SIGMAS`,
    in sides of the target; those with too little overlap are drawn again.

    Args:
        boxes: (N, 4) xywh.
        count: P.

    Returns:
        (N, P, 4) xywh and their IoU with the truth (N, P), at least `MIN_OVERLAP`.
    """
    n = len(boxes)
    truth = xywh_to_cxcywh(boxes)[:, None, None]
    side = boxes[:, 2:].prod(1).sqrt()[:, None, None, None]
    sigmas = boxes.new_tensor(PROPOSAL_SIGMAS)
    # A proposal's later tries are smaller; the last one is the truth.
    shrink = torch.linspace(1, 0, _TRIES, device=boxes.device)[:, None]
    pick = torch.randint(len(sigmas), (n, count, 1, 1), device=boxes.device)
    move = torch.randn(n, count, _TRIES, 4, device=boxes.device) * sigmas[pick] * shrink * side
    tries = truth + move
    tries = torch.cat([tries[..., :2], tries[..., 2:].clamp(min=1)], -1)
    tries = cxcywh_to_xywh(tries).flatten(1, 2)
    iou = overlaps(tries, boxes).view(n, count, _TRIES)
    chosen = (iou >= MIN_OVERLAP).float().argmax(2, keepdim=True)
    picked = tries.view(n, count, _TRIES, 4).gather(2, chosen[..., None].expand(-1, -1, -1, 4))
    return picked.squeeze(2), iou.gather(2, chosen).squeeze(2)


def overlap_loss(predicted: Tensor, iou: Tensor) -> Tensor:
    """Mean squared error of predictions with overlaps stretched to -1 .. 1."""
    return F.mse_loss(predicted, 2 * iou - 1)
