# SPDX-License-Identifier: Apache-2.0
"""The target filter as a tracker runs it: the numbers of `target_filter.py` in less time.

Paper and official code: see `target_filter.py`. Written for this package; what differs from the
official code is the order of the work, not its result:

- A filter is kept as k * k taps of C channels and features as one matrix of cells by channels, so
  that scores and gradients are one matrix product each, which reads the features once. The work is
  bound by memory, and this is all the memory there is to read.
- Scores are linear in the filter: after a step they follow from the scores of the gradient, which
  the step length needs anyway. An iteration is two products instead of three.
- Features come as (N, C, h, w) in any layout, but only with the channels innermost
  (`torch.channels_last`) is their matrix a view.
- Maps are read off their tables by linear interpolation, without the bins in between.
- The first filter is pooled before its convolution, not after: both are linear, so the convolution
  is left with the k * k places of one filter instead of the cells of all images.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from tracker_ros.cuda.prroi_pool import pooling_weights
from tracker_ros.geometry import xywh_to_xyxy
from tracker_ros.models.trdimp.samples import as_cells
from tracker_ros.models.trdimp.target_filter import (
    MIN_STEP_DENOMINATOR,
    FilterInitializer,
    FilterOptimizer,
    LearnedMaps,
    activate,
    activation_slope,
    distances,
    score_size,
    target_centres,
)


def as_taps(target_filter: Tensor) -> Tensor:
    """(C, k, k) -> (k * k, C), turned by half a turn: see `apply_filter`."""
    return target_filter.flip(-2, -1).flatten(1).t().contiguous()


def as_filter(taps: Tensor) -> Tensor:
    """Invert `as_taps`."""
    k = math.isqrt(taps.shape[0])
    return taps.t().unflatten(1, (k, k)).flip(-2, -1)


def rows_by_rows(left: Tensor, right: Tensor, *, packed: bool) -> Tensor:
    """(a, C) and (b, C) -> (a, b) products of all rows.

    With few rows on one side oneDNN takes half the time of the BLAS on processors that the BLAS
    does not favour.
    """
    if packed:
        return torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "none")
    return F.linear(left, right)


def tables_of(optimizer: FilterOptimizer) -> Tensor:
    """Return (3, bins) by the distance to the target: label, mask before its sigmoid, weight."""
    predictors = (
        optimizer.label_map_predictor,
        optimizer.target_mask_predictor[0],
        optimizer.spatial_weight_predictor,
    )
    return torch.cat([cast(Tensor, p.weight).detach().flatten(1) for p in predictors])


def maps_at(place: Tensor, tables: Tensor) -> LearnedMaps:
    """Read maps off their tables, (3, bins), at (N, h', w') distances in bins."""
    lower = place.clamp(max=tables.shape[1] - 2).long()
    share = (place - lower).clamp(max=1)
    below, above = (tables.index_select(1, (lower + i).flatten()) for i in (0, 1))
    both = (3, *place.shape)
    label, mask, weight = torch.lerp(below.view(both), above.view(both), share)
    return LearnedMaps(label, mask.sigmoid(), weight)


class FirstFilter:
    """The filter initialiser of a trained network."""

    def __init__(self, initializer: FilterInitializer) -> None:
        self.filter_size = initializer.filter_size
        self.stride = initializer.stride
        conv = initializer.filter_conv
        # Outputs by (row, column, input): the order in which places are pooled.
        self.weight = conv.weight.detach().permute(0, 2, 3, 1).flatten(1).contiguous()
        self.bias = cast(Tensor, conv.bias).detach()

    def _axis_weights(self, start: Tensor, end: Tensor, size: int) -> Tensor:
        """(N,) places in cells -> (N, 3, k, size) pooling weights before each tap's shift."""
        weights = pooling_weights(start, end, self.filter_size, size)
        # A tap that reads one cell further sees the weights one cell later; those that leave the
        # map met the convolution's zero padding.
        return F.pad(weights, (1, 1)).unfold(-1, size, 1).transpose(1, 2).flip(1)

    def __call__(self, features: Tensor, boxes: Tensor) -> Tensor:
        """Pool the target in each image and average: (N, C, h, w), (N, 4) xywh -> (C, k, k)."""
        images, channels, height, width = features.shape
        k = self.filter_size
        x0, y0, x1, y1 = (xywh_to_xyxy(boxes) / self.stride).unbind(-1)
        rows = self._axis_weights(y0, y1, height)
        columns = self._axis_weights(x0, x1, width)
        cells = features.permute(0, 2, 3, 1).reshape(images, height, width * channels)
        pooled = (rows.flatten(1, 2) @ cells).view(images, 3 * k, width, channels)
        pooled = (columns.flatten(1, 2)[:, None] @ pooled).mean(0)
        # (tap row, row, tap column, column, channel) -> a row per place of the filter.
        places = pooled.view(3, k, 3, k, channels).permute(1, 3, 0, 2, 4).reshape(k * k, -1)
        # The bias counts where the box lies on the map; the middle tap is not shifted.
        inside = rows[:, 1].sum(-1)[:, :, None] * columns[:, 1].sum(-1)[:, None, :]
        result = places @ self.weight.t() + inside.mean(0).view(-1, 1) * self.bias
        return result.t().unflatten(1, (k, k))


class FilterFitting:
    """The filter optimiser of a trained network; `packed` uses oneDNN's products."""

    def __init__(self, optimizer: FilterOptimizer, *, packed: bool) -> None:
        self.stride = optimizer.stride
        self.displacement = optimizer.displacement
        self.packed = packed
        self.step_length = optimizer.step_length.detach()
        self.regularisation = optimizer.regularisation.detach()
        self.tables = tables_of(optimizer)

    def learned_maps(self, boxes: Tensor, size: tuple[int, int], filter_size: int) -> LearnedMaps:
        """Return `FilterOptimizer.learned_maps` of (N, 4) boxes."""
        centres = target_centres(boxes, self.stride, filter_size)
        return maps_at(distances(centres, size) / self.displacement, self.tables)

    def _scores(self, cells: Tensor, taps: Tensor, shape: torch.Size) -> Tensor:
        """(N * h * w, C), (k * k, C), (N, C, h, w) -> (N, h', w')."""
        k = math.isqrt(taps.shape[0])
        products = rows_by_rows(cells, taps, packed=self.packed)
        products = products.view(shape[0], -1, k * k).transpose(1, 2)
        size = (score_size(shape[2], k), score_size(shape[3], k))
        return F.fold(products, size, k, padding=k - 1 - k // 2)[:, 0]

    def score(self, target_filter: Tensor, features: Tensor) -> Tensor:
        """(C, k, k), (N, C, h, w) -> (N, h', w') scores."""
        return self._scores(as_cells(features), as_taps(target_filter), features.shape)

    def fit(
        self,
        target_filter: Tensor,
        features: Tensor,
        boxes: Tensor,
        iterations: int,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """Improve a filter. Returns the last filter of `FilterOptimizer.forward`, (C, k, k).

        Args:
            target_filter: (C, k, k) to start from.
            features: (N, C, h, w).
            boxes: (N, 4) xywh in crop pixels.
            iterations: Steps; without any the filter is returned as it is.
            sample_weight: (N,) weight of each image's squared residuals; None weighs all by 1 / N.
        """
        if iterations < 1:
            return target_filter
        shape, k = features.shape, target_filter.shape[-1]
        cells, taps = as_cells(features), as_taps(target_filter)
        scores = self._scores(cells, taps, shape)
        maps = self.learned_maps(boxes, (scores.shape[1], scores.shape[2]), k)
        if sample_weight is None:
            weight = maps.weight * math.sqrt(1 / shape[0])
        else:
            weight = maps.weight * sample_weight.sqrt()[:, None, None]
        for _ in range(iterations):
            slope = weight * activation_slope(scores, maps.mask)
            residuals = slope * weight * (activate(scores, maps.mask) - maps.label)
            patches = F.unfold(residuals[:, None], k, padding=k - 1 - k // 2)
            patches = patches.transpose(0, 1).reshape(k * k, -1)
            gradient = rows_by_rows(patches, cells.t(), packed=self.packed)
            gradient = gradient + self.regularisation * taps
            change = self._scores(cells, gradient, shape)
            squared = gradient.square().sum()
            curvature = (slope * change).square().sum() + self.regularisation * squared
            step = self.step_length * squared / curvature.clamp(min=MIN_STEP_DENOMINATOR)
            taps = taps - step * gradient
            scores = scores - step * change
        return as_filter(taps)
