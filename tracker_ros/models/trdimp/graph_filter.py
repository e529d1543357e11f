# SPDX-License-Identifier: Apache-2.0
"""The target filter as graphs: where it starts, what it answers, one step of its optimiser.

Paper and official code: see `target_filter.py`. Written for this package. Scores are products of
all cells with all taps, of which each cell of the map gathers its own by a table, as `fold` and
`unfold` do not export well. The memory has all its places from the start: samples of weight 0
teach nothing.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracker_ros.models.trdimp.filter_fitting import maps_at, tables_of
from tracker_ros.models.trdimp.graph_features import tokens_of
from tracker_ros.models.trdimp.target_filter import (
    MIN_STEP_DENOMINATOR,
    FilterInitializer,
    FilterOptimizer,
    activate,
    activation_slope,
    distances,
    score_size,
    target_centres,
)


class FirstFilterPart(nn.Module):
    """The first filter.

    Args:
        initializer: Loaded.
    """

    def __init__(self, initializer: FilterInitializer) -> None:
        super().__init__()
        self.initializer = copy.deepcopy(initializer)

    def forward(self, features: Tensor, boxes: Tensor) -> tuple[Tensor]:
        """(N, C, h, w), (N, 4) xywh -> (C, k, k); see `FilterInitializer`."""
        return (self.initializer(features, boxes),)


class ScorePart(nn.Module):
    """What a filter answers.

    Args:
        size: Height and width of the features, cells.
        filter_size: k.
    """

    patch_table: Tensor
    score_table: Tensor

    def __init__(self, size: tuple[int, int], filter_size: int) -> None:
        super().__init__()
        k, cells = filter_size, size[0] * size[1]
        self.size = score_size(size[0], k), score_size(size[1], k)
        # 1 + the score that each cell and tap has a part in, 0 where that leaves the map.
        count = self.size[0] * self.size[1]
        numbers = torch.arange(1.0, count + 1).view(1, 1, *self.size)
        patches = F.unfold(numbers, k, padding=k - 1 - k // 2)[0].flip(0).long()
        own = 1 + torch.arange(cells) * k**2 + torch.arange(k**2)[:, None]
        scores = torch.zeros(k**2, count + 1, dtype=torch.long).scatter_(1, patches, own)
        self.register_buffer("patch_table", patches.t().contiguous())
        self.register_buffer("score_table", scores[:, 1:].t().contiguous())

    def scores(self, taps: Tensor, cells: Tensor) -> Tensor:
        """(C, k * k) filter, (N, n, C) features -> (N, h' * w')."""
        products = F.pad((cells @ taps).flatten(1), (1, 0))
        return _gathered(products, self.score_table).sum(-1)

    def gradient(self, residuals: Tensor, cells: Tensor) -> Tensor:
        """(N, h' * w') by the scores, (N, n, C) features -> (C, k * k) by the filter."""
        patches = _gathered(F.pad(residuals, (1, 0)), self.patch_table)
        return cells.flatten(0, 1).t() @ patches.flatten(0, 1)

    def forward(self, target_filter: Tensor, decoded: Tensor) -> tuple[Tensor]:
        """(C, k, k), (1, C, h, w) -> (h', w')."""
        scores = self.scores(target_filter.flatten(1), tokens_of(decoded)[None])
        return (scores.view(self.size),)


def _gathered(rows: Tensor, table: Tensor) -> Tensor:
    """(N, m), (a, b) of numbers below m -> (N, a, b)."""
    return rows.index_select(1, table.flatten()).unflatten(1, (table.shape[0], table.shape[1]))


class FitPart(ScorePart):
    """One step of the filter's optimiser.

    Args:
        optimizer: Loaded.
        size: Height and width of the features, cells.
        filter_size: k.
    """

    tables: Tensor
    step_length: Tensor
    regularisation: Tensor

    def __init__(
        self, optimizer: FilterOptimizer, size: tuple[int, int], filter_size: int
    ) -> None:
        super().__init__(size, filter_size)
        self.stride = optimizer.stride
        self.displacement = optimizer.displacement
        self.register_buffer("tables", tables_of(optimizer))
        self.register_buffer("step_length", optimizer.step_length.detach().clone())
        self.register_buffer("regularisation", optimizer.regularisation.detach().clone())

    def forward(  # type: ignore[override]
        self, target_filter: Tensor, cells: Tensor, boxes: Tensor, sample_weight: Tensor
    ) -> tuple[Tensor]:
        """See `FilterFitting.fit`.

        Args:
            target_filter: (C, k, k).
            cells: (N, n, C) features, a row per cell.
            boxes: (N, 4) xywh in crop pixels.
            sample_weight: (N,), 0 where there is no sample.

        Returns:
            (C, k, k).
        """
        taps = target_filter.flatten(1)
        centres = target_centres(boxes, self.stride, target_filter.shape[-1])
        maps = maps_at(distances(centres, self.size) / self.displacement, self.tables)
        label, mask = maps.label.flatten(1), maps.mask.flatten(1)
        weight = maps.weight.flatten(1) * sample_weight.sqrt()[:, None]

        scores = self.scores(taps, cells)
        slope = weight * activation_slope(scores, mask)
        residuals = slope * weight * (activate(scores, mask) - label)
        gradient = self.gradient(residuals, cells) + self.regularisation * taps
        change = self.scores(gradient, cells)
        squared = gradient.square().sum()
        curvature = (slope * change).square().sum() + self.regularisation * squared
        step = self.step_length * squared / curvature.clamp(min=MIN_STEP_DENOMINATOR)
        return ((taps - step * gradient).view(target_filter.shape),)
