# SPDX-License-Identifier: Apache-2.0
"""The target filter: how it is applied, where it starts, and how it learns.

Paper: Bhat, Danelljan, Van Gool, Timofte, "Learning Discriminative Model Prediction for Tracking"
(DiMP), ICCV 2019 (https://arxiv.org/abs/1904.07220). Official code:
https://github.com/594422814/TransformerTrack (MIT, built on pytracking),
`ltr/models/target_classifier/`; written anew with the same parameter names.

Everything here is differentiable and serves training; trackers run `filter_fitting.py`. Features
are (..., N, C, h, w): N images that share one filter (..., C, k, k), with or without a leading
axis of independent sequences. Boxes are xywh in crop pixels.

What differs from the official code is the order of the work: a filter is applied as one product
over the channels, which leaves k * k small maps per image, and those are shifted and added. So the
features are read once and never unfolded.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracker_ros.cuda.prroi_pool import pool_boxes
from tracker_ros.geometry import xywh_to_xyxy
from tracker_ros.models.trdimp.config import TrDiMPConfig

MIN_FILTER_REG = 1e-3
MIN_STEP_DENOMINATOR = 1e-8
_INITIAL_SIGMA = 22 / 24
_INITIAL_MASK_FACTOR = 3.0
_INITIAL_STEP = 0.9
_INITIAL_REG = 0.1


class LearnedMaps(NamedTuple):
    """What the filter is to learn of each image, read off the distance to the target's centre.

    Attributes:
        label: (..., N, h', w') score to reach.
        mask: (..., N, h', w') in (0, 1): 1 where scores below zero count as much as those above.
        weight: (..., N, h', w') factor on the residual.
    """

    label: Tensor
    mask: Tensor
    weight: Tensor


class FilterSteps(NamedTuple):
    """The course of an optimisation.

    Attributes:
        filters: (..., C, k, k) each, after 0, 1, ... iterations.
        losses: (..., iterations + 1) of those filters; they may rise on the way.
    """

    filters: list[Tensor]
    losses: Tensor


def score_size(size: int, filter_size: int) -> int:
    """Return the side of the score map of a feature map: one cell more for an even filter."""
    return size + 2 * (filter_size // 2) - filter_size + 1


def apply_filter(features: Tensor, target_filter: Tensor) -> Tensor:
    """Correlate features with a filter, zero padded by k // 2.

    (..., N, C, h, w) and (..., C, k, k) -> (..., N, h', w') scores; see `score_size`.
    """
    k = target_filter.shape[-1]
    height, width = features.shape[-2:]
    # `fold` adds a tap's map shifted by plus the tap's place, a correlation wants minus: turned.
    taps = target_filter.flip(-2, -1).flatten(-2).transpose(-1, -2)
    products = taps.unsqueeze(-3) @ features.flatten(-2)
    size = (score_size(height, k), score_size(width, k))
    scores = F.fold(products.flatten(0, -3), size, k, padding=k - 1 - k // 2)
    return scores.reshape(*features.shape[:-3], *size)


def apply_filter_transposed(features: Tensor, residuals: Tensor, filter_size: int) -> Tensor:
    """Add residuals up to a filter: the transpose of `apply_filter` in its filter.

    (..., N, C, h, w) features and (..., N, h', w') residuals -> (..., C, k, k).
    """
    k = filter_size
    patches = F.unfold(residuals.flatten(0, -3).unsqueeze(1), k, padding=k - 1 - k // 2)
    patches = patches.reshape(*features.shape[:-3], k * k, -1)
    taps = (features.flatten(-2) @ patches.transpose(-1, -2)).sum(-3)
    return taps.unflatten(-1, (k, k)).flip(-2, -1)


def target_centres(boxes: Tensor, stride: int, filter_size: int) -> Tensor:
    """(..., 4) xywh -> (..., 2) centres (y, x) in cells of the score map."""
    centres = (boxes[..., :2] + boxes[..., 2:] / 2).flip(-1) / stride
    # An odd filter's score sits at its middle cell, an even filter's before it.
    return centres - (filter_size % 2) / 2


def distances(centres: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., 2) centres (y, x) -> (..., h', w') distances of all cells, in cells."""
    rows = torch.arange(size[0], dtype=centres.dtype, device=centres.device)
    columns = torch.arange(size[1], dtype=centres.dtype, device=centres.device)
    dy = rows - centres[..., 0, None]
    dx = columns - centres[..., 1, None]
    return (dy[..., :, None] ** 2 + dx[..., None, :] ** 2).sqrt()


def distance_bins(distance: Tensor, bins: int, displacement: float) -> Tensor:
    """Spread distances over triangular bins; the last one keeps 1 beyond its place.

    (..., h', w') distances in cells -> (..., bins, h', w') weights in [0, 1]; two bins are
    `displacement` cells apart.
    """
    place = torch.arange(bins, dtype=distance.dtype, device=distance.device)[:, None, None]
    beyond = distance.unsqueeze(-3) / displacement - place
    inner = (1 - beyond[..., :-1, :, :].abs()).clamp(min=0)
    last = (1 + beyond[..., -1:, :, :]).clamp(0, 1)
    return torch.cat([inner, last], dim=-3)


def activate(scores: Tensor, mask: Tensor) -> Tensor:
    """Apply a ReLU to scores (...) whose slope below zero is the mask (...), cell by cell."""
    return (1 - mask) / 2 * scores.abs() + (1 + mask) / 2 * scores


def activation_slope(scores: Tensor, mask: Tensor) -> Tensor:
    """Return the slope (...) of `activate` by the scores; at zero the mean of both sides."""
    return (1 - mask) / 2 * scores.sign() + (1 + mask) / 2


class FilterInitializer(nn.Module):
    """Makes the first filter: the target's own features after a convolution, pooled."""

    def __init__(self, config: TrDiMPConfig) -> None:
        super().__init__()
        self.filter_size = config.filter_size
        self.stride = config.stride
        self.filter_conv = nn.Conv2d(config.feature_dim, config.feature_dim, 3, padding=1)
        # Keeps the features' scale, at which scores are of order 1.
        nn.init.normal_(self.filter_conv.weight, 0.0, math.sqrt(2 / (9 * config.feature_dim)))
        nn.init.zeros_(cast(nn.Parameter, self.filter_conv.bias))

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        """Pool the target in each image and average.

        (..., N, C, h, w) features and (..., N, 4) xywh boxes -> (..., C, k, k).
        """
        mapped = self.filter_conv(features.flatten(0, -4))
        places = xywh_to_xyxy(boxes).reshape(-1, 1, 4)
        pooled = pool_boxes(mapped, places, self.filter_size, 1 / self.stride)
        return pooled.reshape(*features.shape[:-2], *pooled.shape[-2:]).mean(-4)


class FilterOptimizer(nn.Module):
    """Steepest descent with an exact step length on a weighted least squares loss.

    Its initial values are those that the official training starts from.
    """

    def __init__(self, config: TrDiMPConfig) -> None:
        super().__init__()
        self.stride = config.stride
        self.bins = config.label_bins
        self.displacement = config.bin_displacement
        self.log_step_length = nn.Parameter(torch.full((1,), math.log(_INITIAL_STEP)))
        self.filter_reg = nn.Parameter(torch.full((1,), _INITIAL_REG))
        self.label_map_predictor = nn.Conv2d(self.bins, 1, 1, bias=False)
        mask_predictor = nn.Conv2d(self.bins, 1, 1, bias=False)
        self.target_mask_predictor = nn.Sequential(mask_predictor, nn.Sigmoid())
        self.spatial_weight_predictor = nn.Conv2d(self.bins, 1, 1, bias=False)
        distance = torch.arange(self.bins) * self.displacement
        label = torch.exp(-0.5 * (distance / _INITIAL_SIGMA) ** 2)
        mask = _INITIAL_MASK_FACTOR * torch.tanh(2 - distance)
        with torch.no_grad():
            self.label_map_predictor.weight.copy_((label - label.min())[None, :, None, None])
            mask_predictor.weight.copy_(mask[None, :, None, None])
            self.spatial_weight_predictor.weight.fill_(1.0)

    @property
    def step_length(self) -> Tensor:
        """Factor on the exact step, a scalar."""
        return self.log_step_length.exp().squeeze(0)

    @property
    def regularisation(self) -> Tensor:
        """Factor on the filter's squared norm, a scalar."""
        return (self.filter_reg**2).clamp(min=MIN_FILTER_REG**2).squeeze(0)

    def learned_maps(self, boxes: Tensor, size: tuple[int, int], filter_size: int) -> LearnedMaps:
        """Return label, mask and weight around (..., N, 4) boxes, for maps of a size in cells."""
        centres = target_centres(boxes.reshape(-1, 4), self.stride, filter_size)
        binned = distance_bins(distances(centres, size), self.bins, self.displacement)
        label = self.label_map_predictor(binned)
        mask = self.target_mask_predictor(binned)
        weight = self.spatial_weight_predictor(binned)
        shape = (*boxes.shape[:-1], *size)
        return LearnedMaps(label.reshape(shape), mask.reshape(shape), weight.reshape(shape))

    def forward(
        self,
        target_filter: Tensor,
        features: Tensor,
        boxes: Tensor,
        iterations: int,
        sample_weight: Tensor | None = None,
    ) -> FilterSteps:
        """Improve a filter.

        Args:
            target_filter: (..., C, k, k) to start from.
            features: (..., N, C, h, w).
            boxes: (..., N, 4) xywh in crop pixels.
            iterations: Steps.
            sample_weight: (..., N) of each image's squared residuals; None weighs all by 1 / N.

        Source: official `optimizer.py`, `DiMPSteepestDescentGN`.
        """
        k = target_filter.shape[-1]
        images, (height, width) = features.shape[-4], features.shape[-2:]
        maps = self.learned_maps(boxes, (score_size(height, k), score_size(width, k)), k)
        if sample_weight is None:
            weight = maps.weight * math.sqrt(1 / images)
        else:
            weight = maps.weight * sample_weight.sqrt()[..., None, None]
        regularisation = self.regularisation

        filters, losses = [target_filter], []
        while True:
            scores = apply_filter(features, target_filter)
            residuals = weight * (activate(scores, maps.mask) - maps.label)
            losses.append(
                residuals.square().sum((-3, -2, -1))
                + regularisation * target_filter.square().sum((-3, -2, -1))
            )
            if len(filters) > iterations:
                return FilterSteps(filters, torch.stack(losses, dim=-1))
            slope = weight * activation_slope(scores, maps.mask)
            gradient = apply_filter_transposed(features, slope * residuals, k)
            gradient = gradient + regularisation * target_filter
            change = slope * apply_filter(features, gradient)
            squared = gradient.square().sum((-3, -2, -1))
            curvature = change.square().sum((-3, -2, -1)) + regularisation * squared
            step = self.step_length * squared / curvature.clamp(min=MIN_STEP_DENOMINATOR)
            target_filter = target_filter - step[..., None, None, None] * gradient
            filters.append(target_filter)
