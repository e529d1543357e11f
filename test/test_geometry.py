# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch

from tracker_ros import geometry as boxes

XYWH = np.array([[10.0, 20.0, 4.0, 6.0], [-3.0, 0.5, 1.0, 9.0]])
CXCYWH = np.array([[12.0, 23.0, 4.0, 6.0], [-2.5, 5.0, 1.0, 9.0]])
XYXY = np.array([[10.0, 20.0, 14.0, 26.0], [-3.0, 0.5, -2.0, 9.5]])


@pytest.mark.parametrize(
    ("function", "given", "wanted"),
    [
        (boxes.xywh_to_cxcywh, XYWH, CXCYWH),
        (boxes.cxcywh_to_xywh, CXCYWH, XYWH),
        (boxes.xywh_to_xyxy, XYWH, XYXY),
        (boxes.cxcywh_to_xyxy, CXCYWH, XYXY),
    ],
)
def test_conversions_of_arrays_and_tensors(function, given, wanted) -> None:
    np.testing.assert_array_equal(function(given), wanted)
    np.testing.assert_array_equal(function(given[0]), wanted[0])
    found = function(torch.from_numpy(given))
    assert isinstance(found, torch.Tensor)
    np.testing.assert_array_equal(found.numpy(), wanted)


@pytest.mark.parametrize(
    ("box", "margin", "wanted"),
    [
        ((10, 20, 30, 40), 10, (10, 20, 30, 40)),
        ((-20, -5, 50, 50), 0, (0, 0, 30, 45)),
        ((-50, 20, 30, 40), 10, (0, 20, 10, 40)),
        ((95, 70, 30, 40), 10, (90, 70, 10, 10)),
        ((50, 40, 2, 3), 10, (50, 40, 10, 10)),
    ],
)
def test_clip_box(box, margin, wanted) -> None:
    assert boxes.clip_box(box, height=80, width=100, margin=margin) == pytest.approx(wanted)


def test_iou() -> None:
    assert boxes.iou((0, 0, 10, 10), (0, 0, 10, 10)) == 1.0
    assert boxes.iou((0, 0, 10, 10), (5, 0, 10, 10)) == pytest.approx(1 / 3)
    assert boxes.iou((0, 0, 10, 10), (20, 20, 5, 5)) == 0.0
    assert boxes.iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0.0


def test_a_good_box_is_returned_as_floats() -> None:
    found = boxes.check_box(np.array([1, 2, 3, 4], dtype=np.int32), height=80, width=100)
    assert found == (1.0, 2.0, 3.0, 4.0)
    assert all(type(v) is float for v in found)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((1, 2, 3), "has 3 numbers; expected four"),
        ((1, 2, float("nan"), 4), "is not finite"),
        ((1, 2, float("inf"), 4), "is not finite"),
        ((1, 2, 0, 4), "at least 1 px"),
        ((1, 2, 5, -4), "at least 1 px"),
        ((1, 2, 401, 4), "too large for the image of 100 x 80 px"),
        ((100, 2, 5, 5), "does not overlap the image of 100 x 80 px"),
        ((5, -6, 5, 5), "does not overlap"),
    ],
)
def test_a_bad_box_is_named(box, message) -> None:
    with pytest.raises(ValueError, match=message):
        boxes.check_box(box, height=80, width=100)


def test_tight_box_is_around_all_pixels_of_a_mask() -> None:
    mask = np.zeros((20, 30), bool)
    mask[4, 7] = mask[9, 12] = True
    assert boxes.tight_box(mask) == (7.0, 4.0, 6.0, 6.0)
    assert boxes.tight_box(np.ones((20, 30), bool)) == (0.0, 0.0, 30.0, 20.0)


@pytest.mark.parametrize(
    "box",
    [
        [1, 2, 30, 40],
        np.array([[1, 2, 30, 40]]),
        np.array([[1.0], [2.0], [30.0], [40.0]], np.float32),
        "1, 2, 30,40",
        "1 2 30 40",
        ["1", "2", "30", "40"],
        [np.float32(1), np.int64(2), 30, 40],
    ],
    ids=str,
)
def test_four_numbers_in_any_clear_form_are_a_box(box):
    assert boxes.check_box(box, 480, 640) == (1.0, 2.0, 30.0, 40.0)


def test_overlap_of_equal_boxes_is_one_and_no_more():
    same = np.random.default_rng(0).uniform(0, 90, (500, 4)).round(2)
    assert boxes.ious(same, same).max() == 1.0


def test_torch_tensors_are_boxes():
    tensor = torch.tensor([[1.0, 2.0, 30.0, 40.0]], requires_grad=True)
    assert boxes.check_box(tensor, 480, 640) == (1.0, 2.0, 30.0, 40.0)


@pytest.mark.parametrize(
    ("box", "advice"),
    [
        (None, "box is None"),
        (5, "no list of numbers"),
        (b"abcd", "no list of numbers"),
        ({"x": 1}, "no list of numbers"),
        ([1, 2, 3], "has 3 numbers"),
        ("left top", "has 2 numbers"),
        ([None] * 4, "something else"),
        (((1, 2), (30, 40)), "two corners: x1, y1, x2 - x1"),
        (((5, 5), (3, 3), 30.0), "cv2.boundingRect"),
        ((0.1, 0.2, 0.3, 0.4), "fractions of the image"),
        ((0, 0, 1, 1), "fractions of the image"),
        ((100, 100, -30, -40), "it is 70, 60, 30, 40"),
        ((500, 300, 560, 380), "give 500, 300, 60, 80"),
    ],
    ids=str,
)
def test_what_is_no_box_is_refused_with_advice_that_fits(box, advice):
    with pytest.raises(ValueError, match=advice):
        boxes.check_box(box, 480, 640)


def test_a_box_that_leaves_the_image_is_not_taken_for_corners():
    assert boxes.check_box((600, 430, 80, 90), 480, 640) == (600.0, 430.0, 80.0, 90.0)
    assert boxes.check_box((200, 150, 450, 340), 480, 640)[2] == 450.0
