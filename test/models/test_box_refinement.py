# SPDX-License-Identifier: Apache-2.0
"""The gradient of the IoU as it is written out, beside autograd, and what is done with it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tracker_ros.cuda.prroi_pool import MapPool, Pooled, pool_by_matrix
from tracker_ros.models.layers.resnet import Features
from tracker_ros.models.trdimp.boxes import (
    BoxRefinement,
    PartialMap,
    climb_default,
    climb_relative,
    part_of_axis,
    pooled_maps,
)
from tracker_ros.models.trdimp.config import BASE, TINY, TINY_TRACKING
from tracker_ros.models.trdimp.features import Modulation
from tracker_ros.models.trdimp.network import IoUNet
from tracker_ros.registry import create_tracker

SIDE = 352
SMALL = [[150.0, 160, 61, 52], [149, 158, 70, 44], [153, 163, 58, 60]]
CASES = {
    "near": SMALL,
    "over the corners": [[-20.0, -30, 60, 70], [320, 330, 60, 50]],
    "around everything": [[-40.0, -40, 450, 430]],
    "beyond": [[500.0, 100, 40, 40], [-90, 100, 40, 40]],
    "on whole cells": [[32.0, 64, 80, 48], [160, 160, 16, 16]],
    "without area": [[100.0, 100, 0, 20], [90, 90, 20, -3], [120, 80, 30, 40]],
    "a sliver": [[100.3, 100.7, 0.3, 90]],
}


class Setup:
    """A small branch with random weights, features of a picture, and a target, in float64."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = IoUNet(replace(TINY, width=4, iou_dim=8, iou_reference_dim=4)).double()
        for module in self.network.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)):
                nn.init.normal_(module.running_mean, 0.1, 0.1)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
                nn.init.normal_(module.bias, 0.2, 0.1)
        nn.init.ones_(self.network.iou_predictor.bias)
        self.network.eval()
        self.features = Features(
            torch.randn(1, 8, 44, 44, dtype=torch.float64),
            torch.randn(1, 16, 22, 22, dtype=torch.float64),
        )
        with torch.no_grad():
            self.modulation: Modulation = self.network.modulation(
                self.features, torch.tensor([[140.0, 150, 61, 52]], dtype=torch.float64)
            )
            self.maps = self.network.test_features(self.features)
        self.model = BoxRefinement(deepcopy(self.network), packed=False)

    def by_autograd(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        boxes = boxes.clone().requires_grad_()
        found = self.network.predict(self.modulation, self.maps, boxes[None])[0]
        (gradient,) = torch.autograd.grad(found.sum(), boxes)
        return found.detach(), gradient


@pytest.fixture(scope="module")
def setup() -> Setup:
    return Setup()


def boxes_of(case: str) -> Tensor:
    return torch.tensor(CASES[case], dtype=torch.float64)


@pytest.mark.parametrize("case", CASES)
def test_gradient_is_autograds(setup: Setup, case: str) -> None:
    boxes = boxes_of(case)
    wanted, wanted_gradient = setup.by_autograd(boxes)
    maps = setup.model.maps(setup.modulation, setup.features)
    found, gradient = setup.model.overlap(maps, boxes)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=0, atol=1e-12)


def test_gradient_is_the_slope(setup: Setup) -> None:
    """Of the prediction itself, by differences: autograd is not asked."""
    boxes, step = boxes_of("near"), 1e-5
    maps = setup.model.maps(setup.modulation, setup.features)
    _, gradient = setup.model.overlap(maps, boxes)
    for side in range(4):
        shift = step * torch.eye(4, dtype=torch.float64)[side]
        more, _ = setup.model.overlap(maps, boxes + shift)
        less, _ = setup.model.overlap(maps, boxes - shift)
        torch.testing.assert_close(
            (more - less) / (2 * step), gradient[:, side], rtol=1e-6, atol=1e-8
        )


def test_convolutions_run_only_around_the_boxes(setup: Setup) -> None:
    layer2, layer3 = setup.model.maps(setup.modulation, setup.features)
    setup.model.overlap((layer2, layer3), boxes_of("near"))
    for part, side in ((layer2, 44), (layer3, 22)):
        assert part.cells is not None
        assert part.cells.shape[:2].numel() < 0.4 * side * side
        margin = 16 // part.stride
        assert part.columns[0] <= 149 // part.stride - margin
        assert part.columns[1] >= 219 // part.stride + margin


def test_everything_at_once(setup: Setup) -> None:
    """As on a GPU."""
    layers = zip(
        (setup.model.layer2, setup.model.layer3), setup.features, setup.modulation, strict=True
    )
    maps = tuple(
        PartialMap(layer.convs, features, modulation, layer.stride, partial=False)
        for layer, features, modulation in layers
    )
    wanted, wanted_gradient = setup.by_autograd(boxes_of("near"))
    found, gradient = setup.model.overlap((maps[0], maps[1]), boxes_of("near"))
    assert maps[0].columns == maps[0].rows == (0, 44)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=0, atol=1e-12)


def test_boxes_that_leave_the_computed_part_are_still_right(setup: Setup) -> None:
    maps = setup.model.maps(setup.modulation, setup.features)
    setup.model.overlap(maps, boxes_of("near"))
    boxes = boxes_of("near") + torch.tensor([60.0, -50, 0, 0])
    wanted, wanted_gradient = setup.by_autograd(boxes)
    found, gradient = setup.model.overlap(maps, boxes)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=0, atol=1e-12)


def test_boxes_that_are_no_numbers_do_not_stop_the_others(setup: Setup) -> None:
    boxes = torch.cat([boxes_of("near"), torch.full((1, 4), torch.nan, dtype=torch.float64)])
    maps = setup.model.maps(setup.modulation, setup.features)
    found, _ = setup.model.overlap(maps, boxes)
    torch.testing.assert_close(found[:3], setup.by_autograd(boxes_of("near"))[0])


@pytest.mark.parametrize("size", [14, 22, 44])
@pytest.mark.parametrize("length", [1, 6, 15])
def test_parts_of_an_axis(size: int, length: int) -> None:
    for low in range(size):
        high = min(low + length, size)
        first, last = part_of_axis(low, high, 2, size)
        assert first >= 0 and last <= size
        if (first, last) != (0, size):
            assert (last - first) % 4 == 0
            assert last - first < high - low + 2 * (2 + 2) + 4
        right_from = first + 2 if first > 0 else 0
        right_to = last - 2 if last < size else size
        assert right_from <= max(low - 2, 0) and right_to >= min(high + 2, size)


@pytest.mark.parametrize(
    ("space", "step"),
    [
        ("relative", 0.02),
        ("relative", (0.01, 0.04)),
        ("default", 0.5),
        ("default", (0.2, 1.0)),
    ],
)
def test_refinement_is_the_ascent_by_autograd(
    setup: Setup, space: str, step: float | tuple[float, float]
) -> None:
    """In the space itself, as officially: variables are converted to boxes and back."""
    start = boxes_of("near")
    unit = start[0, 2:]
    settings = replace(
        BASE,
        box_refinement_space=space,
        box_refinement_iter=4,
        box_refinement_step_length=step,
        box_refinement_step_decay=0.7,
    )
    found, overlaps = setup.model.refine(setup.modulation, setup.features, start, settings)

    def to_boxes(place: Tensor) -> Tensor:
        if space == "default":
            return place
        size = place[:, 2:].exp()
        return torch.cat([place[:, :2] * unit - size / 2, size], dim=1)

    place = start
    if space == "relative":
        place = torch.cat([(start[:, :2] + start[:, 2:] / 2) / unit, start[:, 2:].log()], dim=1)
    pair = step if isinstance(step, tuple) else (step, step)
    length = start.new_tensor([pair[0], pair[0], pair[1], pair[1]])
    for _ in range(4):
        variable = place.clone().requires_grad_()
        wanted = setup.network.predict(setup.modulation, setup.maps, to_boxes(variable)[None])[0]
        (gradient,) = torch.autograd.grad(wanted.sum(), variable)
        if space == "default":
            gradient = gradient * place[:, 2:].repeat(1, 2)
        place = place + length * gradient
        length = length * 0.7
    assert (to_boxes(place) - start).abs().max() > 0.5
    torch.testing.assert_close(found, to_boxes(place), rtol=0, atol=1e-9)
    torch.testing.assert_close(overlaps, wanted.detach(), rtol=0, atol=1e-11)


def test_climbing_by_hand() -> None:
    boxes = torch.tensor([[10.0, 20, 30, 40]])
    gradient = torch.tensor([[1.0, 2, 3, 4]])
    step = torch.tensor([0.1, 0.1, 0.01, 0.01])
    assert climb_default(boxes, gradient, step).tolist()[0] == pytest.approx([13, 28, 30.9, 41.6])
    unit = torch.tensor([2.0, 5])
    moved = climb_relative(boxes, gradient, torch.tensor([0.1, 0.1, 0, 0]), unit)
    assert moved.tolist()[0] == pytest.approx([10.4, 25, 30, 40])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"box_refinement_space": "polar"}, "'polar'; expected one of relative, default"),
        ({"box_refinement_iter": 0}, "is 0; expected a number from 1"),
    ],
)
def test_wrong_settings(setup: Setup, wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        setup.model.refine(
            setup.modulation, setup.features, boxes_of("near"), replace(BASE, **wrong)
        )


def test_boxes_are_pooled_by_the_form_that_was_chosen(setup: Setup) -> None:
    bins = []

    def pool(cells: Tensor, boxes: Tensor, count: int) -> Pooled:
        bins.append(count)
        return pool_by_matrix(cells, boxes, count)

    model = BoxRefinement(deepcopy(setup.network), packed=False, pool=pool)
    found = model.overlap(model.maps(setup.modulation, setup.features), boxes_of("near"))
    maps = setup.model.maps(setup.modulation, setup.features)
    for one, other in zip(found, setup.model.overlap(maps, boxes_of("near")), strict=True):
        assert torch.equal(one, other)
    assert bins == [bins_of_map for *_, bins_of_map in pooled_maps(TINY, BASE)]
    assert pooled_maps(TINY, BASE)[0][:3] == (44, 44, TINY.iou_dim)


def test_the_factory_takes_the_faster_form(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fastest(*arguments: object) -> MapPool:
        asked.append(arguments)
        return pool_by_matrix

    monkeypatch.setattr("tracker_ros.cuda.prroi_pool.fastest_prroi_pool", fastest)
    create_tracker("trdimp_tiny", device="cpu", backend="torch")
    assert asked == [(torch.device("cpu"), pooled_maps(TINY, TINY_TRACKING), 10)]
