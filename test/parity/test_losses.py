# SPDX-License-Identifier: Apache-2.0
"""Score labels and losses with their gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_files import golden
from torch import Tensor

from tracker_ros.training.losses import center_heatmap, focal_loss, gaussian_radius, giou_loss

GOLDEN = golden("loss_ostrack_grm.npz")
LOSS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4
SIZES = [int(n.split("_")[1]) for n in GOLDEN.arrays if n.removeprefix("heatmap_").isdigit()]
OUTSIDE = range(len(GOLDEN["heatmap_outside_boxes_xywh"]))


def given(name: str) -> Tensor:
    return torch.from_numpy(GOLDEN[name])


def check(loss: Tensor, variable: Tensor, name: str) -> None:
    """Value and gradient of a scalar loss."""
    loss.backward()
    wanted = GOLDEN[f"{name}_grad"]
    assert loss.item() == pytest.approx(float(GOLDEN[f"{name}_loss"]), rel=LOSS_TOLERANCE)
    assert variable.grad is not None
    bound = GRADIENT_TOLERANCE * float(np.abs(wanted).max())
    np.testing.assert_allclose(variable.grad, wanted, rtol=0, atol=bound)


@pytest.mark.parametrize("size", SIZES)
def test_heatmap(size: int) -> None:
    wanted = GOLDEN[f"heatmap_{size}"]
    found = center_heatmap(given("heatmap_boxes_xywh"), wanted.shape[-1])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found == 1.0, wanted == 1.0)


@pytest.mark.parametrize("case", OUTSIDE)
def test_heatmap_of_a_centre_outside(case: int) -> None:
    wanted = GOLDEN[f"heatmap_outside_{case}"]
    boxes = given("heatmap_outside_boxes_xywh")[case : case + 1]
    found = center_heatmap(boxes, wanted.shape[-1])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def test_radius() -> None:
    found = gaussian_radius(given("radius_wh"))
    np.testing.assert_allclose(found, GOLDEN["radius"], rtol=1e-5, atol=1e-6)


def test_focal_loss() -> None:
    score = given("focal_pred").clone().requires_grad_()
    check(focal_loss(score, given("focal_target")), score, "focal")


def test_focal_loss_without_a_positive() -> None:
    score = given("focal_pred").clone().requires_grad_()
    check(focal_loss(score, given("focal_target") * 0.9), score, "focal_no_positive")


def test_giou_loss() -> None:
    boxes = given("giou_pred_xyxy").clone().requires_grad_()
    loss, iou = giou_loss(boxes, given("giou_target_xyxy"))
    check(loss, boxes, "giou")
    np.testing.assert_allclose(iou.detach(), GOLDEN["giou_iou"], rtol=LOSS_TOLERANCE, atol=1e-7)


def test_l1_loss() -> None:
    boxes = given("giou_pred_xyxy").clone().requires_grad_()
    check(torch.nn.functional.l1_loss(boxes, given("giou_target_xyxy")), boxes, "l1")
