# SPDX-License-Identifier: Apache-2.0
"""The filter as a tracker fits it, beside `target_filter.py`, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tracker_ros.models.trdimp.config import TINY, TrDiMPConfig
from tracker_ros.models.trdimp.filter_fitting import (
    FilterFitting,
    FirstFilter,
    as_cells,
    as_filter,
    as_taps,
    rows_by_rows,
)
from tracker_ros.models.trdimp.target_filter import (
    FilterInitializer,
    FilterOptimizer,
    apply_filter,
)

BOXES = torch.tensor(
    [
        [60.0, 40, 50, 44],
        [-30, -10, 70, 60],  # over the upper left corner
        [140, 100, 90, 80],  # over the lower right corner
        [10, 20, 0, 30],  # without area
        [48, 32, 64, 32],  # on whole cells
    ],
    dtype=torch.float64,
)

sizes = pytest.mark.parametrize("k", [3, 4, 5])
layouts = pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["planes", "channels_last"]
)


def config(k: int) -> TrDiMPConfig:
    return replace(TINY, feature_dim=6, filter_size=k)


def samples(layout: torch.memory_format = torch.channels_last) -> Tensor:
    """(5, 6, 9, 11)."""
    torch.manual_seed(1)
    return (0.4 * torch.randn(5, 6, 9, 11, dtype=torch.float64)).contiguous(memory_format=layout)


def optimizer(k: int) -> FilterOptimizer:
    torch.manual_seed(0)
    made = FilterOptimizer(config(k)).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return made


def test_taps_come_back_as_the_filter() -> None:
    target_filter = torch.randn(6, 4, 4)
    assert torch.equal(as_filter(as_taps(target_filter)), target_filter)


def test_features_with_channels_innermost_are_not_copied() -> None:
    features = samples()
    assert as_cells(features[:3]).data_ptr() == features.data_ptr()


@pytest.mark.parametrize("turned", [False, True])
def test_packed_products(turned: bool) -> None:
    torch.manual_seed(0)
    left, right = torch.randn(16, 40), torch.randn(70, 40)
    if turned:
        right = right.t().contiguous().t()
    torch.testing.assert_close(rows_by_rows(left, right, packed=True), left @ right.t())


@sizes
@layouts
@torch.inference_mode()
def test_first_filter(k: int, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    plain = FilterInitializer(config(k)).double()
    plain.filter_conv.bias.normal_()
    fast, features = FirstFilter(plain), samples(layout)
    torch.testing.assert_close(fast(features, BOXES), plain(features, BOXES))
    for i in range(len(BOXES)):
        one = slice(i, i + 1)
        wanted = plain(features[one], BOXES[one])
        torch.testing.assert_close(fast(features[one], BOXES[one]), wanted)


@sizes
@torch.inference_mode()
def test_maps_far_and_near(k: int) -> None:
    made = optimizer(k)
    far = torch.tensor([[1600.0, 32, 48, 64]], dtype=torch.float64)
    boxes = torch.cat([BOXES, far])
    found = FilterFitting(made, packed=False).learned_maps(boxes, (10, 12), k)
    for ours, wanted in zip(found, made.learned_maps(boxes, (10, 12), k), strict=True):
        torch.testing.assert_close(ours, wanted)


@sizes
@layouts
@pytest.mark.parametrize("weighted", [False, True])
@torch.inference_mode()
def test_fit(k: int, layout: torch.memory_format, weighted: bool) -> None:
    made, features = optimizer(k), samples(layout)
    fitting = FilterFitting(made, packed=False)
    start = 0.1 * torch.randn(6, k, k, dtype=torch.float64)
    weight = torch.tensor([0.4, 0.3, 0.2, 0.1, 0.0], dtype=torch.float64) if weighted else None
    steps = made(start, features, BOXES, 6, weight)
    for iterations in (1, 2, 6):
        found = fitting.fit(start, features, BOXES, iterations, weight)
        torch.testing.assert_close(found, steps.filters[iterations])
    torch.testing.assert_close(fitting.score(found, features), apply_filter(features, found))


def test_no_iterations_leave_the_filter_as_it_is() -> None:
    start = torch.randn(6, 4, 4, dtype=torch.float64)
    fitting = FilterFitting(optimizer(4), packed=False)
    assert fitting.fit(start, samples(), BOXES, 0) is start
