# SPDX-License-Identifier: Apache-2.0
"""TrDiMP's first filter, its learned maps and its optimiser, as trained and as tracked with."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from golden_files import golden, helper, seed_of, stats
from torch import Tensor
from trdimp_golden_network import golden_network, relative_difference

from tracker_ros.models.trdimp.filter_fitting import FilterFitting, FirstFilter
from tracker_ros.models.trdimp.network import TargetClassifier
from tracker_ros.models.trdimp.target_filter import (
    FilterOptimizer,
    FilterSteps,
    activate,
    apply_filter,
    distance_bins,
    distances,
    target_centres,
)

TOLERANCE = 1e-5  # a tenth of what is demanded
SCORE_SIZE = (23, 23)
FILE = golden("trdimp_filter.npz")

kinds = pytest.mark.parametrize("kind", ["uniform", "weighted"])
layouts = pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["planes", "channels_last"]
)
packings = pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])


def recorded(name: str) -> Tensor:
    return torch.from_numpy(FILE[name])


@cache
def inputs() -> tuple[Tensor, Tensor]:
    features, boxes = helper("trdimp_inputs").optimizer_inputs(seed_of("trdimp"))
    return torch.from_numpy(features), torch.from_numpy(boxes)


def classifier() -> TargetClassifier:
    return golden_network().classifier


def optimizer() -> FilterOptimizer:
    return classifier().filter_optimizer


def sample_weight(kind: str) -> Tensor | None:
    return recorded("sample_weight") if kind == "weighted" else None


@cache
def first_filter() -> Tensor:
    with torch.inference_mode():
        return classifier().filter_initializer(*inputs())


@cache
def optimised(kind: str) -> FilterSteps:
    features, boxes = inputs()
    with torch.inference_mode():
        return optimizer()(first_filter(), features, boxes, 10, sample_weight(kind))


def test_inputs() -> None:
    features, boxes = inputs()
    np.testing.assert_allclose(stats(features.numpy()), FILE["feat_stats"], rtol=1e-6)
    np.testing.assert_array_equal(boxes.numpy(), FILE["bb"])


@torch.inference_mode()
def test_first_filter() -> None:
    features, boxes = inputs()
    alone = classifier().filter_initializer(features[:1], boxes[:1])
    assert relative_difference(first_filter()[None], FILE["filter_init"]) < TOLERANCE
    assert relative_difference(alone[None], FILE["filter_init_first_image_only"]) < TOLERANCE


@layouts
@torch.inference_mode()
def test_first_filter_pooled_before_the_convolution(layout: torch.memory_format) -> None:
    features, boxes = inputs()
    features = features.to(memory_format=layout)
    first = FirstFilter(classifier().filter_initializer)
    assert relative_difference(first(features, boxes)[None], FILE["filter_init"]) < TOLERANCE
    alone = first(features[:1], boxes[:1])[None]
    assert relative_difference(alone, FILE["filter_init_first_image_only"]) < TOLERANCE


def test_distances() -> None:
    centres = target_centres(inputs()[1], 16, 4)
    np.testing.assert_allclose(centres.numpy(), FILE["dist_center_yx"], rtol=1e-6)
    bins = distance_bins(distances(centres, SCORE_SIZE), 100, 0.1)
    np.testing.assert_allclose(bins[:, ::9].numpy(), FILE["dist_map_sub"], rtol=0, atol=2e-6)


@pytest.mark.parametrize("tracked", [False, True], ids=["bins", "interpolated"])
@torch.inference_mode()
def test_learned_maps(tracked: bool) -> None:
    source = FilterFitting(optimizer(), packed=False) if tracked else optimizer()
    maps = source.learned_maps(inputs()[1], SCORE_SIZE, 4)
    for name, found in (
        ("label_map", maps.label),
        ("target_mask", maps.mask),
        ("spatial_weight", maps.weight),
    ):
        assert relative_difference(found[:, None], FILE[name]) < 1e-6, name


@torch.inference_mode()
def test_scores_and_activation() -> None:
    features, boxes = inputs()
    scores = apply_filter(features, first_filter())[:, None]
    assert relative_difference(scores, FILE["scores_0"]) < TOLERANCE
    mask = optimizer().learned_maps(boxes, SCORE_SIZE, 4).mask
    active = activate(recorded("scores_0")[:, 0], mask)[:, None]
    assert relative_difference(active, FILE["score_act_of_scores0"]) < 1e-6


@kinds
@torch.inference_mode()
def test_optimiser(kind: str) -> None:
    steps = optimised(kind)
    for count in (1, 2, 5, 10):
        difference = relative_difference(
            steps.filters[count][None], FILE[f"{kind}_filter_{count}"]
        )
        assert difference < TOLERANCE, count
    np.testing.assert_allclose(steps.losses.numpy(), FILE[f"{kind}_losses"], rtol=1e-4)
    scores = apply_filter(inputs()[0], steps.filters[10])[:, None]
    assert relative_difference(scores, FILE[f"{kind}_scores_10"]) < TOLERANCE


@kinds
@packings
@layouts
@torch.inference_mode()
def test_optimiser_as_tracked_with(kind: str, packed: bool, layout: torch.memory_format) -> None:
    features, boxes = inputs()
    features = features.to(memory_format=layout)
    fitting = FilterFitting(optimizer(), packed=packed)
    start = recorded("filter_init")[0]
    for count in (1, 2, 5, 10):
        found = fitting.fit(start, features, boxes, count, sample_weight(kind))
        assert relative_difference(found[None], FILE[f"{kind}_filter_{count}"]) < TOLERANCE, count
    scores = fitting.score(found, features)[:, None]
    assert relative_difference(scores, FILE[f"{kind}_scores_10"]) < TOLERANCE
