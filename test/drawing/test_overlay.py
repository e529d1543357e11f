# SPDX-License-Identifier: Apache-2.0
"""Pixels of the drawings: where the box is, in which colour, and what stays untouched."""

import numpy as np
import pytest

from tracker_ros.drawing.overlay import (
    COMPARED,
    STATE_COLOURS,
    TARGET_COLOURS,
    DrawnTarget,
    close_up,
    colour_map_score,
    draw_targets,
    draw_token_mask,
    place_beside,
)
from tracker_ros.following.target_state import TargetState
from tracker_ros.tracker import TrackResult


def _result(box=(100.0, 90.0, 80.0, 60.0), score=0.75, mask=None):
    return TrackResult(box, score, None, (0.0, 0.0, 1.0, 1.0), mask)


def _grey(height=240, width=320):
    return np.full((height, width, 3), 120, np.uint8)


def _is_colour(pixel, state):
    return np.abs(pixel.astype(int) - np.array(STATE_COLOURS[state])).max() <= 12


def draw_target(image, result, *, rate_hz=None, scale=1.0, **target):
    return draw_targets(image, [DrawnTarget(result, **target)], rate_hz=rate_hz, scale=scale)


@pytest.mark.parametrize("size", [(240, 320), (480, 640), (1080, 1920)])
@pytest.mark.parametrize("state", [TargetState.TRACKING, TargetState.UNCERTAIN])
def test_box_is_drawn_on_its_edges_in_the_states_colour(size, state):
    height, width = size
    box = (width * 0.4, height * 0.4, width * 0.25, height * 0.3)
    drawn = draw_target(_grey(*size), _result(box), target_id="1", label="cup", state=state)
    left, top = round(box[0]), round(box[1])
    right, bottom = round(box[0] + box[2] - 1), round(box[1] + box[3] - 1)
    middle_x, middle_y = (left + right) // 2, (top + bottom) // 2
    for x, y in [(left, middle_y), (right, middle_y), (middle_x, top), (middle_x, bottom)]:
        assert _is_colour(drawn[y, x], state), (x, y, drawn[y, x])
    assert (drawn[middle_y, middle_x] == 120).all()
    assert (drawn[height - 2, width - 2] == 120).all()


def test_tag_is_filled_with_the_states_colour_and_written_in_dark_ink():
    drawn = draw_target(_grey(), _result(), target_id="8", label="HMH")
    tag = drawn[72:88, 100:150].astype(int)
    dark = (tag < 70).all(2).sum()
    assert dark > 60, "letters"
    assert dark < tag.shape[0] * tag.shape[1] / 2, "ground"
    assert _is_colour(drawn[80, 100], TargetState.TRACKING)


def test_lost_target_is_dashed_and_idle_has_no_box():
    image = _grey()
    lost = draw_target(image, _result(), state=TargetState.LOST)
    column = lost[90:150, 100]
    coloured = [_is_colour(pixel, TargetState.LOST) for pixel in column]
    assert 0.2 < np.mean(coloured) < 0.9
    idle = draw_target(image, _result(), state=TargetState.IDLE)
    assert (idle[60:] == 120).all()


def test_input_is_never_written_and_scale_sets_the_size():
    image = _grey()
    before = image.copy()
    half = draw_target(image, _result(), state=TargetState.TRACKING, scale=0.5)
    assert half.shape == (120, 160, 3)
    assert half.dtype == np.uint8
    assert np.array_equal(image, before)
    assert _is_colour(half[60, 50], TargetState.TRACKING)
    image = np.random.default_rng(0).integers(0, 255, image.shape, np.uint8)
    backwards = np.ascontiguousarray(image[:, :, ::-1])[:, :, ::-1]
    for scale in (1.0, 0.5):
        wanted = draw_target(image, _result(), scale=scale)
        assert np.array_equal(draw_target(backwards, _result(), scale=scale), wanted)
    assert np.array_equal(backwards, image)


def test_score_bar_grows_with_the_score():
    def green_pixels(score):
        drawn = draw_target(_grey(), _result((100, 150, 80, 60), score), rate_hz=30.0)
        strip = drawn[:20].astype(int)
        return (np.abs(strip - np.array(STATE_COLOURS[TargetState.TRACKING])).max(2) < 8).sum()

    assert green_pixels(0.05) < green_pixels(0.5) < green_pixels(0.98)


@pytest.mark.parametrize(
    "box",
    [
        (-500.0, -500.0, 100.0, 100.0),
        (0.0, 0.0, 320.0, 240.0),
        (300.0, 230.0, 400.0, 400.0),
        (float("nan"), 0.0, 1.0, 1.0),
        (5.0, 5.0, 0.0, 0.0),
        (1e9, 1e9, 1e9, 1e9),
    ],
)
def test_any_box_and_label_can_be_drawn(box):
    drawn = draw_target(
        _grey(), _result(box), target_id="12345", label="Überlänge " * 20, rate_hz=1e6
    )
    assert drawn.shape == (240, 320, 3)


def test_mask_tints_only_its_own_pixels():
    mask = np.zeros((240, 320), bool)
    mask[200:210, 250:260] = True
    drawn = draw_target(_grey(), _result(mask=mask), state=TargetState.TRACKING)
    expected = np.rint(120 * 0.66 + 0.34 * np.array(STATE_COLOURS[TargetState.TRACKING]))
    assert np.array_equal(drawn[205, 255], expected.astype(np.uint8))
    assert (drawn[195, 255] == 120).all()


def test_wrong_images_and_scales_are_refused_by_name():
    with pytest.raises(ValueError, match="float32.*RGB uint8"):
        draw_target(np.zeros((10, 10, 3), np.float32), None)
    with pytest.raises(ValueError, match=r"\(10, 10\)"):
        draw_target(np.zeros((10, 10), np.uint8), None)
    with pytest.raises(ValueError, match="scale is 0"):
        draw_target(_grey(), None, scale=0)


def test_score_map_is_brightest_at_its_peak_and_row_major():
    score_map = np.zeros((16, 16), np.float32)
    score_map[3, 12] = 1.0
    picture = colour_map_score(score_map, (160, 80))
    assert picture.shape == (80, 160, 3)
    assert picture.dtype == np.uint8
    row, column = np.unravel_index(picture.astype(int).sum(2).argmax(), (80, 160))
    assert abs(row - 17) <= 3
    assert abs(column - 125) <= 6
    # Inferno is RGB: its middle is red, not blue.
    middle = colour_map_score(np.full((4, 4), 0.5, np.float32), (4, 4))[0, 0]
    assert middle[0] > middle[2]


def test_score_map_clips_and_survives_non_finite_values():
    wild = np.array([[np.nan, 5.0], [-3.0, np.inf]], np.float32)
    tame = np.array([[0.0, 1.0], [0.0, 0.0]], np.float32)
    assert np.array_equal(colour_map_score(wild, (8, 8)), colour_map_score(tame, (8, 8)))
    with pytest.raises(ValueError, match="two-dimensional"):
        colour_map_score(np.zeros((2, 2, 2), np.float32), (8, 8))
    with pytest.raises(ValueError, match="size is"):
        colour_map_score(np.zeros((2, 2), np.float32), (0, 8))


def test_tokens_of_the_mask_are_tinted_and_the_rest_dark():
    token_mask = np.zeros((2, 4, 4), bool)
    token_mask[:, 1, 2] = True
    token_mask[0, 3, 0] = True
    drawn = draw_token_mask(_grey(), token_mask, (100.0, 40.0, 80.0, 160.0))
    tinted = np.rint(0.65 * 120 + 0.35 * np.array(COMPARED))
    dark, darker = 0.5 * 120, 0.3 * 120
    # Cells are 20 x 40 pixels: the first of the two begins at (140, 80), the second at (100, 160).
    assert (drawn[81:119, 141:159] == tinted).all()
    assert (drawn[161:199, 101:119] == np.rint((tinted + dark) / 2)).all()
    drawn[79:121, 139:161] = drawn[159:201, 99:121] = dark
    assert (drawn[41:199, 101:179] == dark).all()
    drawn[39:201, 99:181] = darker
    assert (drawn == darker).all()


def test_a_search_region_that_reaches_beyond_the_picture_is_cut_off():
    drawn = draw_token_mask(_grey(), np.ones((1, 2, 2), bool), (-50.0, -30.0, 100.0, 100.0))
    assert (drawn[:69, :49] > 70).all()
    assert (drawn[71:] == 36).all()
    assert (drawn[:, 51:] == 36).all()


def test_several_targets_have_a_colour_each_and_keep_it():
    left = DrawnTarget(_result((40.0, 90.0, 60.0, 60.0)), "1")
    right = DrawnTarget(_result((200.0, 90.0, 60.0, 60.0)), "12", "cup", TargetState.LOST)
    both = draw_targets(_grey(), [left, right])
    assert np.abs(both[120, 40].astype(int) - TARGET_COLOURS[0]).max() <= 12
    edge = both[92:148, 200].astype(int)
    drawn = np.abs(edge - TARGET_COLOURS[11 % len(TARGET_COLOURS)]).max(axis=1) <= 12
    assert 0.2 < drawn.mean() < 0.9, "dashed while it is lost"
    swapped = draw_targets(_grey(), [right, left])
    assert (swapped[60:] == both[60:]).all(), "by id, not by order"
    alone = draw_targets(_grey(), [left])
    assert np.array_equal(alone, draw_target(_grey(), left.result, target_id="1"))
    assert _is_colour(alone[120, 40], TargetState.TRACKING)


def test_the_tag_of_one_among_several_names_its_state():
    left = DrawnTarget(_result((40.0, 90.0, 60.0, 60.0)), "1")
    right = _result((200.0, 90.0, 60.0, 60.0))
    tags = {
        state: draw_targets(_grey(), [left, DrawnTarget(right, "2", state=state)])[60:88]
        for state in (TargetState.TRACKING, TargetState.UNCERTAIN)
    }
    filled = {
        state: (np.abs(tag.astype(int) - TARGET_COLOURS[1]).max(axis=2) < 12).sum()
        for state, tag in tags.items()
    }
    assert filled[TargetState.UNCERTAIN] > 1.5 * filled[TargetState.TRACKING]


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
