# SPDX-License-Identifier: Apache-2.0
"""RoI pooling as matrix products, beyond what the golden data cover."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tracker_ros.cuda.prroi_pool import (
    pool_boxes,
    pooling_weights,
    pooling_weights_with_derivatives,
)

# Start and end: inside, over both borders, tiny, on whole pixels, far outside, empty, reversed.
STARTS = [1.2, -4.0, 3.45, 2.0, 50.0, 3.0, 5.0]
ENDS = [2.7, 30.0, 3.46, 6.0, 70.0, 3.0, 2.0]


def random_boxes(count: int, size: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=generator, dtype=torch.float64) * 1.5 * size
    corners, _ = (corners - size / 4).sort(dim=1)
    return corners.flatten(1)


def random_features(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def mean_by_sampling(features: Tensor, box: Tensor, bins: int) -> Tensor:
    """Mean of the bilinear surface at many points of every bin; (C, bins, bins)."""
    samples = 400
    x0, y0, x1, y1 = box.tolist()

    def hats(start: float, end: float, count: int, size: int) -> Tensor:
        at = (
            start
            + (torch.arange(count * samples) + 0.5).double() * (end - start) / count / samples
        )
        return (1 - (at[:, None] - torch.arange(size)).abs()).clamp(min=0)

    rows = hats(y0, y1, bins, features.shape[1])
    columns = hats(x0, x1, bins, features.shape[2])
    values = rows @ features @ columns.T
    return values.unflatten(1, (bins, samples)).unflatten(3, (bins, samples)).mean((2, 4))


def test_it_is_the_mean_of_the_bilinear_surface() -> None:
    features = random_features(1, 2, 7, 9)
    boxes = random_boxes(6, 9, seed=1)
    pooled = pool_boxes(features, boxes[None], 3, 1.0)[0]
    sampled = torch.stack([mean_by_sampling(features[0], box, 3) for box in boxes])
    torch.testing.assert_close(pooled, sampled, rtol=0, atol=1e-4)


def test_gradients() -> None:
    features = random_features(2, 2, 5, 6).requires_grad_()
    boxes = random_boxes(6, 48, seed=2).view(2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda maps, corners: pool_boxes(maps, corners, 2, 1 / 8), (features, boxes)
    )


@pytest.mark.parametrize(
    "box",
    [
        (3, 1, 3, 4),
        (4, 1, 2, 4),
        (1, 4, 3, 2),
        (2, 2, 2, 2),
        # A width that is lost as soon as anything is added to it.
        (-2e-18, 1, -1e-18, 4),
    ],
)
def test_a_box_without_area_gives_zeros_and_no_gradient(box: tuple[float, ...]) -> None:
    features = random_features(1, 2, 6, 6).requires_grad_()
    boxes = torch.tensor(box, dtype=torch.float64).view(1, 1, 4).requires_grad_()
    pooled = pool_boxes(features, boxes, 3, 1.0)
    pooled.sum().backward()
    assert not pooled.any()
    assert features.grad is not None and not features.grad.any()
    assert boxes.grad is not None and not boxes.grad.any()


def test_derivatives_of_the_weights_are_those_of_autograd() -> None:
    start = torch.tensor(STARTS, dtype=torch.float64, requires_grad=True)
    end = torch.tensor(ENDS, dtype=torch.float64, requires_grad=True)
    upstream = random_features(len(STARTS), 3, 8)
    weights = pooling_weights(start, end, 3, 8)
    by_start, by_end = torch.autograd.grad((weights * upstream).sum(), (start, end))
    found = pooling_weights_with_derivatives(start.detach(), end.detach(), 3, 8)
    torch.testing.assert_close(found.weights, weights.detach())
    torch.testing.assert_close((found.by_start * upstream).sum((1, 2)), by_start)
    torch.testing.assert_close((found.by_end * upstream).sum((1, 2)), by_end)


def test_weights_inside_the_map_add_up_to_one() -> None:
    # Far from 0 too, in float32, with bins of a thousandth of a pixel.
    start = torch.tensor([3.2, 57.1])
    weights = pooling_weights(start, start + torch.tensor([20.0, 0.005]), 5, 64)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 5), rtol=0, atol=3e-5)


def test_half_precision_and_autocast_are_computed_in_float32() -> None:
    features = random_features(1, 3, 20, 20).half()
    boxes = random_boxes(5, 20, seed=5).float()[None]
    wanted = pool_boxes(features.float(), boxes, 3, 1.0)
    found = pool_boxes(features, boxes, 3, 1.0)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found, wanted.half(), rtol=0, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(
            pool_boxes(features.float(), boxes, 3, 1.0), wanted, rtol=0, atol=0
        )


def test_it_exports_as_one_graph() -> None:
    class Pool(torch.nn.Module):
        def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
            return pool_boxes(features, boxes, 3, 1 / 2)

    features = random_features(1, 2, 6, 7).float()
    boxes, others = (random_boxes(4, 14, seed=seed).float()[None] for seed in (6, 7))
    program = torch.export.export(Pool(), (features, boxes))
    torch.testing.assert_close(
        program.module()(features, others), pool_boxes(features, others, 3, 1 / 2)
    )
