# SPDX-License-Identifier: Apache-2.0
"""Drawing primitives against hand-made truth."""

import math

import pytest
import torch

from tracker_ros.synthetic.render import (
    composite,
    extents,
    line_blur,
    linear_pose,
    mask_boxes,
    warp,
)


def pose(angle=0.0, aspect=0.0, shear=0.0, mirrored=False, scale=1.0):
    """One linear map from plain numbers."""
    return linear_pose(
        torch.tensor([angle]),
        torch.tensor([aspect]),
        torch.tensor([shear]),
        torch.tensor([mirrored]),
        torch.tensor([scale]),
    )


def test_identity_warp_copies_the_texture():
    texture = torch.rand(1, 4, 32, 32)
    drawn = warp(texture, pose(), torch.zeros(1, 2), (32, 32))
    assert torch.allclose(drawn, texture, atol=1e-5)


def test_warp_moves_right_and_down_by_whole_pixels():
    texture = torch.rand(1, 1, 20, 20)
    drawn = warp(texture, pose(), torch.tensor([[3.0, 2.0]]), (20, 20))
    assert torch.allclose(drawn[..., 2:, 3:], texture[..., :-2, :-3], atol=1e-5)
    assert drawn[..., :2, :].abs().max() == 0


def test_quarter_turn_is_clockwise_on_the_screen():
    texture = torch.zeros(1, 1, 9, 9)
    texture[..., 4, 8] = 1  # to the right of the centre
    drawn = warp(texture, pose(angle=math.pi / 2), torch.zeros(1, 2), (9, 9))
    assert drawn[0, 0].argmax() == 8 * 9 + 4  # now below it


def test_mirror_exchanges_left_and_right():
    texture = torch.rand(1, 3, 16, 16)
    drawn = warp(texture, pose(mirrored=True), torch.zeros(1, 2), (16, 16))
    assert torch.allclose(drawn, texture.flip(-1), atol=1e-5)


@pytest.mark.parametrize("angle", [0.0, 0.4, -1.2])
def test_extents_agree_with_the_drawn_mask(angle):
    mask = torch.zeros(1, 40, 40, dtype=torch.bool)
    mask[:, 12:31, 8:22] = True
    linear = pose(angle=angle, aspect=0.2, shear=0.1, scale=1.7)
    bounds = extents(mask, linear, 1.0)[0]
    drawn = warp(mask[:, None].float(), linear, torch.zeros(1, 2), (160, 160))
    box, found = mask_boxes(drawn[:, 0] > 0.5)
    assert found.all()
    x, y, w, h = box[0].tolist()
    truth = torch.tensor([x - 80, y - 80, x + w - 80, y + h - 80])
    assert (bounds - truth).abs().max() < 2.0


def test_mask_boxes_are_tight_and_say_when_empty():
    mask = torch.zeros(2, 10, 12, dtype=torch.bool)
    mask[0, 3:7, 5:11] = True
    boxes, found = mask_boxes(mask)
    assert boxes.tolist() == [[5, 3, 6, 4], [0, 0, 0, 0]]
    assert found.tolist() == [True, False]


def test_composite_lays_opaque_over_and_leaves_transparent():
    image, layer = torch.zeros(1, 3, 2, 2), torch.ones(1, 4, 2, 2)
    layer[:, 3, 0] = 0
    assert composite(image, layer)[0, 0].tolist() == [[0, 0], [1, 1]]
    assert composite(image, layer, torch.zeros(1)).abs().max() == 0


def test_line_blur_spreads_along_its_line_and_keeps_the_mean():
    image = torch.zeros(1, 3, 21, 21)
    image[..., 10, 10] = 1
    blurred = line_blur(image, torch.tensor([0.0]), torch.tensor([6.0]))
    assert blurred.sum() == pytest.approx(3.0, rel=1e-4)
    row, column = blurred[0, 0, 10], blurred[0, 0, :, 10]
    assert (row > 0.05).sum() >= 5
    assert (column > 0.05).sum() == 1
