# SPDX-License-Identifier: Apache-2.0
"""The panel beside a frame."""

import numpy as np

from tracker_ros.drawing.side_panel import close_up, place_beside


def test_panel_has_one_size_with_and_without_pictures():
    frame = np.full((240, 320, 3), 120, np.uint8)
    white = np.full((50, 50, 3), 255, np.uint8)
    red = np.zeros((50, 50, 3), np.uint8)
    red[..., 0] = 255
    full = place_beside(frame, white, red)
    empty = place_beside(frame, None)
    assert full.shape == empty.shape
    assert full.shape[0] == 240
    assert full.shape[1] > 320
    assert np.array_equal(full[:, :320], frame)
    panel = full[:, 320:]
    assert (panel[:120] == 255).all(2).sum() > 5000, "the response is above"
    is_red = (panel[..., 0] == 255) & (panel[..., 1] == 0)
    assert is_red[120:].sum() > 5000, "the target is below"
    assert is_red[:100].sum() == 0
    assert (empty[:, 320:] == 255).sum() < 1000


def test_close_up_shows_the_box_in_the_middle_and_dark_outside():
    image = np.zeros((100, 100, 3), np.uint8)
    image[40:60, 70:90] = 200
    inside = close_up(image, (70.0, 40.0, 20.0, 20.0), side=60, context=2.0)
    assert inside.shape == (60, 60, 3)
    assert (inside[18:42, 18:42] == 200).all()
    assert (inside[:12, :50] == 0).all()
    beyond = close_up(image, (90.0, 40.0, 20.0, 20.0), side=60, context=2.0)
    assert (beyond[:, 45:] == (34, 38, 46)).all()
    assert close_up(image, (0.0, 0.0, 0.0, 5.0)) is None
    assert close_up(image, (float("nan"), 0.0, 4.0, 5.0)) is None
