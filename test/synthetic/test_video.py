# SPDX-License-Identifier: Apache-2.0
"""Synthetic sequences: truth that fits the pixels."""

import numpy as np
import pytest
from scenes import EASY

from tracker_ros.synthetic.scene_video import SceneConfig, SyntheticScene, synthetic_video

SIZE = (160, 120)


def test_a_seed_repeats_and_another_differs():
    first, again = (list(synthetic_video(4, 3, SIZE)) for _ in range(2))
    other = next(iter(synthetic_video(5, 1, SIZE)))
    assert all(
        (a.image == b.image).all() and a.box == b.box for a, b in zip(first, again, strict=True)
    )
    assert (first[0].image != other.image).any()


def test_frames_are_rgb_and_boxes_hold_the_mask():
    for frame in synthetic_video(1, 10, SIZE):
        assert frame.image.shape == (120, 160, 3)
        assert frame.image.dtype == np.uint8
        rows, columns = np.where(frame.mask)
        x, y, w, h = frame.box
        assert len(rows)
        assert x <= columns.min() and columns.max() < x + w
        assert y <= rows.min() and rows.max() < y + h
        assert 0 < frame.visibility <= 1


def test_an_unhidden_target_fills_its_box():
    for frame in synthetic_video(2, 5, SIZE, EASY):
        rows, columns = np.where(frame.mask)
        assert frame.box == (
            columns.min(),
            rows.min(),
            columns.max() + 1 - columns.min(),
            rows.max() + 1 - rows.min(),
        )


def test_the_target_moves_and_changes():
    scene = SyntheticScene(3, SIZE)
    boxes = np.array([scene.frame(time).box for time in np.linspace(0, 2, 8)])
    assert np.ptp(boxes[:, 0]) > 10
    assert np.ptp(boxes[:, 2]) > 2


def test_a_leaving_target_is_gone_and_comes_back():
    config = SceneConfig(leaves=True, occluders=0, distractors=0)
    scene = SyntheticScene(1, SIZE, config)
    gone = scene.frame(config.period)
    assert gone.visibility == 0
    assert gone.box == (0, 0, 0, 0)
    assert not gone.mask.any()
    assert scene.frame(config.period + 2).visibility > 0.5


def test_occluders_hide_part_of_some_target():
    config = SceneConfig(occluders=3, travel=0.15)
    scenes = [SyntheticScene(seed, SIZE, config) for seed in range(3)]
    times = np.linspace(0, 1.3, 6)
    visibility = [scene.frame(time).visibility for scene in scenes for time in times]
    assert min(visibility) < 0.8
    assert max(visibility) > 0.95


def test_too_small_a_frame_is_refused():
    with pytest.raises(ValueError, match="64 x 64"):
        SyntheticScene(0, (640, 32))
