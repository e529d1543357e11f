# SPDX-License-Identifier: Apache-2.0
"""Sheets of what trackers saw and computed."""

import math

import numpy as np
import pytest

from tracker_ros.drawing.views import draw_sheet, draw_view
from tracker_ros.tracker import View

GREY = np.full((60, 80, 3), 100, np.uint8)


@pytest.mark.parametrize("count", [0, 1, 5, 14])
def test_a_sheet_has_its_size_whatever_there_is_to_show(count):
    sheet = draw_sheet([View("a view", GREY)] * count, 320, 200)
    assert sheet.shape == (200, 320, 3)
    assert sheet.dtype == np.uint8
    # Each view covers its share: more of them, smaller ones.
    covered = (sheet == 100).all(2).mean()
    assert (covered > 0.3) == (count > 0)


def test_a_room_that_is_too_small_stays_empty():
    assert draw_sheet([View("a view", GREY)] * 50, 60, 40).shape == (40, 60, 3)


def test_what_was_not_kept_is_darkened():
    kept = np.array([[True, False], [False, False]])
    drawn = draw_view(View("kept", GREY, kept=kept), 80, 60)
    assert (drawn[:30, :40] == 100).all()
    assert (drawn[31:, 41:] < 40).all()
    assert (GREY == 100).all(), "the view is left as it was"


def test_heat_is_brightest_at_its_peak():
    heat = np.zeros((3, 4), np.float32)
    heat[1, 2] = 1
    drawn = draw_view(View("heat", GREY, heat=heat), 160, 120).astype(int).sum(2)
    row, column = np.unravel_index(drawn.argmax(), drawn.shape)
    assert (row // 40, column // 40) == (1, 2)


def test_boxes_and_points_are_drawn_in_place():
    shown = View("marks", GREY, boxes=(((10, 20, 30, 10), "0.5"),), points=((70.0, 50.0),))
    drawn = draw_view(shown, 160, 120)
    assert (drawn[60, 22:78] > 200).all(), "the lower edge, twice as large"
    assert (drawn[100, 140] != 100).any()
    assert (drawn[80:95, 100:120] == 100).all()


def test_marks_outside_and_places_that_are_unknown_are_left_out():
    points = ((math.nan, math.nan), (-500.0, 10.0))
    drawn = draw_view(View("marks", GREY, boxes=(((500, 9, 9, 9), "far"),), points=points), 80, 60)
    assert (drawn[20:] == 100).all()
