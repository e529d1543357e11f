# SPDX-License-Identifier: Apache-2.0
"""Training losses and labels of the trackers that find one target in a crop.

One-stream trackers: 2 GIoU + 5 L1 + 1 focal. Papers: Ye et al., "OSTrack", ECCV 2022, section 3.4
(https://arxiv.org/abs/2203.11991); Law and Deng, "CornerNet", ECCV 2018, section 3.2
(https://arxiv.org/abs/1808.01244). Official code: https://github.com/botaoye/OSTrack (MIT),
`lib/train/actors/ostrack.py`, `lib/utils/{focal_loss,box_ops,heapmap_utils}.py`; written anew.
What differs on purpose: an inverted box counts as empty; the official code asserts there and then
swallows every exception, setting the loss to 0.

Trackers that learn online: a hinge-like score loss and a regression of the overlap of proposals.
Papers: Bhat et al., "Learning Discriminative Model Prediction for Tracking" (DiMP), ICCV 2019,
section 3.3 (https://arxiv.org/abs/1904.07220); Danelljan et al., "ATOM", CVPR 2019, section 3.2
(https://arxiv.org/abs/1811.07628). TrDiMP's own box loss, the divergence of densities of boxes, is
an option: Danelljan, Van Gool, Timofte, "Probabilistic Regression for Visual Tracking", CVPR 2020,
section 3 (https://arxiv.org/abs/2003.12565). Weights and constants are the published ones except
for `IOU_WEIGHT`; written anew, for whole batches. What differs on purpose: a target may be absent,
and then trains the score map alone.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tracker_ros.geometry import cxcywh_to_xywh, xywh_to_cxcywh, xywh_to_xyxy
from tracker_ros.models.trdimp.target_filter import distances, target_centres

GIOU_WEIGHT, L1_WEIGHT, FOCAL_WEIGHT = 2.0, 5.0, 1.0
FOCAL_EASY, FOCAL_NEAR = 2.0, 4.0
"""Exponents that lower the weight of easy cells, and of cells near a positive one."""
MIN_SHIFTED_OVERLAP = 0.7
"""Overlap with the target that a box shifted by the radius of the heat map still has."""
HINGE_THRESHOLD = 0.05
OUTPUT_SIGMA = 0.25
"""Standard deviation of the score label, target sides."""
FIRST_WEIGHT, STEPS_WEIGHT, LAST_WEIGHT = 100.0, 400.0, 100.0
"""Weights of the score loss: of the pooled filter, the mean of those between, the last one."""
IOU_WEIGHT = 10.0
"""Weight of the overlap loss; 1 as published, where the backbone is pretrained."""
DENSITY_WEIGHT = 0.01
"""Weight of the density loss."""
DENSITY_SIGMAS, LABEL_SIGMA = (0.05, 0.5), 0.05
"""Deviations of the proposals of the density loss, half of them each, and of its label."""
PROPOSAL_SIGMAS = (0.01, 0.05, 0.1, 0.2, 0.3)
MIN_OVERLAP = 0.1
_TRIES = 6


def focal_loss(score: Tensor, heatmap: Tensor) -> Tensor:
    """Compute the penalty-reduced focal loss (CornerNet, equation 1) of scores in (0, 1).

    Scores and labels are (B, 1, n, n); labels are exactly 1 at positives, less around them.
    Returns a scalar, divided by the number of positives of the batch, at least by 1.
    """
    score = score.clamp(min=1e-12)
    positive = heatmap.eq(1.0)
    hit = torch.log(score) * (1.0 - score) ** FOCAL_EASY
    miss = torch.log(1.0 - score) * score**FOCAL_EASY * (1.0 - heatmap) ** FOCAL_NEAR
    count = positive.sum().clamp(min=1)
    return -torch.where(positive, hit, miss).sum() / count


def generalized_iou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the generalised IoU in [-1, 1] and the IoU, (N,) each, of (N, 4) xyxy boxes."""
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
    """Return the mean of 1 - GIoU over (N, 4) xyxy boxes, and their IoU (N,)."""
    giou, iou = generalized_iou(predicted, target)
    return (1.0 - giou).mean(), iou


def gaussian_radius(extent_wh: Tensor) -> Tensor:
    """Return the radius (...), in cells, within which shifted boxes overlap by a fixed share.

    The extents (..., 2) are in cells, the share is `MIN_SHIFTED_OVERLAP`. The published formula
    solves three quadratics but divides each root by 2 where 2a is meant; networks were trained
    with the result, so it stays.
    """
    min_overlap = MIN_SHIFTED_OVERLAP
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
    """Label the score map, (B, n, n) in [0, 1]: a Gaussian around the cell of the centre.

    Boxes are (B, 4) xywh as fractions of the search crop. The cell nearest to the centre (half to
    even) is exactly 1; if it lies outside the map, no cell is.
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


def score_labels(
    boxes: Tensor, present: Tensor, size: int, target_side: float, stride: int, filter_size: int
) -> Tensor:
    """Label the score maps of a tracker that learns online, (..., size, size) in [0, 1].

    Boxes are (..., 4) xywh in crop pixels, of which a cell has `stride`; the sides of score map,
    mean target and filter are in cells. The label of a target that is not present is zero
    everywhere.
    """
    distance = distances(target_centres(boxes, stride, filter_size), (size, size))
    label = torch.exp(-0.5 * (distance / (OUTPUT_SIGMA * target_side)) ** 2)
    return label * present[..., None, None]


def hinge_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean squared error, ignoring negative scores on the background."""
    background = labels < HINGE_THRESHOLD
    error = torch.where(background, scores.relu(), scores - labels)
    return error.square().mean()


def filter_loss(scores: list[Tensor], labels: Tensor) -> Tensor:
    """Weigh the score losses of the pooled filter and of the filter after each step, in order."""
    first, *rest = (hinge_loss(maps, labels) for maps in scores)
    if not rest:
        return FIRST_WEIGHT * first
    total = FIRST_WEIGHT * first + LAST_WEIGHT * rest[-1]
    between = rest[:-1]
    return total + STEPS_WEIGHT * torch.stack(between).mean() if between else total


def overlaps(proposals: Tensor, boxes: Tensor) -> Tensor:
    """Compute the IoU (N, P) of (N, P, 4) xywh proposals with (N, 4) xywh boxes."""
    truth = boxes[:, None].expand_as(proposals)
    iou = generalized_iou(
        xywh_to_xyxy(proposals.flatten(0, 1)), xywh_to_xyxy(truth.flatten(0, 1))
    )[1]
    return iou.view(proposals.shape[:2])


def draw_proposals(boxes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Draw P boxes (N, P, 4) around the truth (N, 4), xywh, from near copies to poor guesses.

    Centre and size of each move by normal numbers of one deviation out of `PROPOSAL_SIGMAS`, in
    sides of the target; boxes with too little overlap are drawn again. Also returns their IoU with
    the truth (N, P), at least `MIN_OVERLAP`.
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
    """Compute the mean squared error of predictions with overlaps stretched to -1 .. 1."""
    return F.mse_loss(predicted, 2 * iou - 1)


class DensityProposals(NamedTuple):
    """Boxes to judge, and how likely they are."""

    boxes: Tensor  # (N, P, 4) xywh
    density: Tensor  # (N, P) of being drawn
    label: Tensor  # (N, P) of being the target's box, which annotators too know only nearly


def draw_density_proposals(boxes: Tensor, count: int) -> DensityProposals:
    """Draw P boxes around the truth (N, 4), xywh, from a mixture of two normal densities.

    Densities are over the shift of the centre, in sides of the target, and the logarithm of the
    sides' growth.
    """
    sigmas = boxes.new_tensor(DENSITY_SIGMAS)
    pick = torch.randint(len(sigmas), (len(boxes), count, 1), device=boxes.device)
    move = torch.randn(len(boxes), count, 4, device=boxes.device) * sigmas[pick]
    drawn = torch.stack([_normal_density(move, sigma) for sigma in DENSITY_SIGMAS]).mean(0)
    truth = xywh_to_cxcywh(boxes)[:, None]
    size = truth[..., 2:]
    moved = torch.cat([truth[..., :2] + move[..., :2] * size, size * move[..., 2:].exp()], -1)
    return DensityProposals(cxcywh_to_xywh(moved), drawn, _normal_density(move, LABEL_SIGMA))


def _normal_density(moves: Tensor, sigma: float) -> Tensor:
    """Return the density (...) of moves (..., 4) whose parts are normal and independent."""
    scale = (math.sqrt(2 * math.pi) * sigma) ** moves.shape[-1]
    return torch.exp(-0.5 * (moves / sigma).square().sum(-1)) / scale


def density_loss(predicted: Tensor, proposals: DensityProposals) -> Tensor:
    """Compute the mean divergence of the predicted density of boxes from the label's.

    Up to a constant of the label. The predictions (N, P) are logarithms of a density that is not
    normalised; both its integral and the label's expectation are means over the proposals, each
    divided by the density it was drawn with.
    """
    drawn = proposals.density + torch.finfo(predicted.dtype).tiny
    integral = torch.logsumexp(predicted - drawn.log(), dim=-1) - math.log(predicted.shape[-1])
    expected = (predicted * proposals.label / drawn).mean(-1)
    return (integral - expected).mean()
