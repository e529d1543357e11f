# SPDX-License-Identifier: Apache-2.0
"""The target filter as it is trained; `test_trdimp_filter.py` has the recorded numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tracker_ros.models.trdimp.config import TINY
from tracker_ros.models.trdimp.target_filter import (
    FilterInitializer,
    FilterOptimizer,
    activate,
    activation_slope,
    apply_filter,
    apply_filter_transposed,
    distance_bins,
    score_size,
    target_centres,
)

CONFIG = replace(TINY, feature_dim=6)
BOXES = torch.tensor([[40.0, 50, 60, 40], [30, 70, 50, 50], [-20, 90, 80, 30]])

sizes = pytest.mark.parametrize("k", [1, 3, 4, 5])


def optimizer() -> FilterOptimizer:
    """With maps that are not all alike."""
    torch.manual_seed(0)
    made = FilterOptimizer(CONFIG).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return made


def batch(sequences: int, k: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Filters (B, 6, k, k), features (B, 3, 6, 9, 11) and boxes (B, 3, 4)."""
    torch.manual_seed(1)
    filters = 0.1 * torch.randn(sequences, 6, k, k, dtype=torch.float64)
    features = 0.3 * torch.randn(sequences, 3, 6, 9, 11, dtype=torch.float64)
    return filters, features, BOXES.double() + 10 * torch.arange(sequences).view(-1, 1, 1)


@sizes
def test_a_filter_is_a_padded_correlation(k: int) -> None:
    filters, features, _ = batch(2, k)
    wanted = torch.stack(
        [
            F.conv2d(f, w[None], padding=k // 2)[:, 0]
            for f, w in zip(features, filters, strict=True)
        ]
    )
    found = apply_filter(features, filters)
    assert found.shape[-2:] == (score_size(9, k), score_size(11, k))
    torch.testing.assert_close(found, wanted)


@sizes
def test_the_transpose_is_one(k: int) -> None:
    filters, features, _ = batch(2, k)
    scores = apply_filter(features, filters)
    residuals = torch.randn_like(scores)
    back = apply_filter_transposed(features, residuals, k)
    torch.testing.assert_close(
        (scores * residuals).sum((1, 2, 3)), (filters * back).sum((1, 2, 3))
    )


def test_centre_of_a_box_in_cells() -> None:
    """An odd filter's score sits at its middle cell, which pixel 8 is the centre of."""
    boxes = torch.tensor([[20.0, 40, 8, 16]])
    assert target_centres(boxes, 16, 4).tolist() == [[3.0, 1.5]]
    assert target_centres(boxes, 16, 3).tolist() == [[2.5, 1.0]]


def test_bins_of_a_distance_add_up_to_one() -> None:
    distance = torch.tensor([[0.0, 0.13, 0.4, 0.85, 0.9, 7.0]])
    bins = distance_bins(distance, 10, 0.1)
    torch.testing.assert_close(bins.sum(0), torch.ones_like(distance))
    place = (bins * torch.arange(10)[:, None, None]).sum(0)
    torch.testing.assert_close(place, (distance / 0.1).clamp(max=9))


def test_activation_and_its_slope() -> None:
    scores = torch.tensor([-2.0, -0.5, 0.0, 3.0], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([0.0, 0.4, 0.4, 0.4], dtype=torch.float64)
    active = activate(scores, mask)
    assert active.tolist() == pytest.approx([0.0, -0.2, 0.0, 3.0])
    (slope,) = torch.autograd.grad(active.sum(), scores)
    torch.testing.assert_close(activation_slope(scores, mask), slope)
    assert slope.tolist() == pytest.approx([0.0, 0.4, 0.7, 1.0])


def test_a_step_goes_down_the_gradient_to_the_lowest_place() -> None:
    """Autograd's gradient of the loss; where the loss is quadratic no other step does better."""
    (start,), (features,), (boxes,) = batch(1)
    made = optimizer()
    with torch.no_grad():
        made.target_mask_predictor[0].weight.fill_(50.0)  # scores are not bent
        made.log_step_length.zero_()
    weight = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    variable = start.clone().requires_grad_()
    loss = made(variable, features, boxes, 0, weight).losses[0]
    (gradient,) = torch.autograd.grad(loss, variable)
    steps = made(start, features, boxes, 1, weight)
    step = (start - steps.filters[1]) / gradient
    assert step.min() > 0
    torch.testing.assert_close(step, step.mean().expand_as(step))
    for factor in (0.9, 1.1):
        other = start - factor * step.mean() * gradient
        assert made(other, features, boxes, 0, weight).losses[0] > steps.losses[1]


def test_sequences_do_not_mix() -> None:
    filters, features, boxes = batch(2)
    weight = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], dtype=torch.float64)
    made = optimizer()
    together = made(filters, features, boxes, 3, weight)
    assert together.losses.shape == (2, 4)
    for i in range(2):
        alone = made(filters[i], features[i], boxes[i], 3, weight[i])
        torch.testing.assert_close(together.losses[i], alone.losses)
        torch.testing.assert_close(together.filters[3][i], alone.filters[3])


def test_no_weights_are_equal_weights() -> None:
    filters, features, boxes = batch(1)
    made = optimizer()
    equal = made(filters, features, boxes, 2, torch.full((1, 3), 1 / 3, dtype=torch.float64))
    torch.testing.assert_close(made(filters, features, boxes, 2).filters[2], equal.filters[2])


def test_learning_reaches_every_parameter_through_the_iterations() -> None:
    filters, features, boxes = batch(2)
    made = optimizer()
    filters.requires_grad_()
    features.requires_grad_()
    steps = made(filters, features, boxes, 3)
    apply_filter(features, steps.filters[3]).square().sum().backward()
    learned = {"filter": filters, "features": features, **dict(made.named_parameters())}
    for name, parameter in learned.items():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_gradients_are_right() -> None:
    filters, features, boxes = batch(1)
    made = optimizer()

    def last(start: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        return made(start, seen, boxes[:, :1], 2).filters[2]

    seen = features[:, :1, :, :4, :4].contiguous()
    assert torch.autograd.gradcheck(last, (filters.requires_grad_(), seen.requires_grad_()))


def test_initial_values() -> None:
    made = FilterOptimizer(TINY)
    label = made.label_map_predictor.weight.detach().flatten()
    mask = made.target_mask_predictor[0].weight.detach().flatten()
    assert label[0] == pytest.approx(1.0) and label[-1] == 0.0
    assert label[9] == pytest.approx(math.exp(-0.5 * (0.9 / (22 / 24)) ** 2), abs=1e-6)
    assert mask[20] == pytest.approx(0.0, abs=1e-6)
    assert mask[0] == pytest.approx(3 * math.tanh(2))
    assert (made.spatial_weight_predictor.weight == 1).all()
    assert made.step_length.item() == pytest.approx(0.9)
    assert made.regularisation.item() == pytest.approx(0.01)


def test_regularisation_has_a_floor() -> None:
    made = FilterOptimizer(TINY)
    with torch.no_grad():
        made.filter_reg.fill_(1e-5)
    assert made.regularisation.item() == pytest.approx(1e-6)


def test_first_filter_is_the_mean_over_images() -> None:
    _, features, boxes = batch(2)
    torch.manual_seed(2)
    made = FilterInitializer(CONFIG).double()
    together = made(features, boxes)
    assert together.shape == (2, 6, 4, 4)
    for i in range(2):
        alone = [made(features[i, n : n + 1], boxes[i, n : n + 1]) for n in range(3)]
        torch.testing.assert_close(together[i], torch.stack(alone).mean(0))
