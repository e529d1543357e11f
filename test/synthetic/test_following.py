# SPDX-License-Identifier: Apache-2.0
"""The embedded tracker on scenes whose truth is known."""

import numpy as np
import pytest
from scenes import EASY

from tracker_ros import create_tracker
from tracker_ros.geometry import iou
from tracker_ros.synthetic.scene_video import SceneConfig, SyntheticScene, synthetic_video

SIZE = (320, 240)
FRAMES = 25
BAR = 0.6


@pytest.fixture(scope="module")
def tracker():
    """The default model, with its embedded weights."""
    return create_tracker("ostrack_tiny", device="cpu", backend="torch")


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_an_easy_target_is_followed(tracker, seed):
    frames = list(synthetic_video(seed, FRAMES, SIZE, EASY))
    tracker.initialize(frames[0].image, frames[0].box)
    overlaps = [iou(tracker.track(frame.image).box, frame.box) for frame in frames[1:]]
    assert np.mean(overlaps) > BAR


def test_the_score_falls_when_the_target_is_gone(tracker):
    config = SceneConfig(leaves=True, distractors=0, occluders=0, limbs=0)
    scene = SyntheticScene(3, SIZE, config)
    start = scene.frame(config.period - 2.5)
    tracker.initialize(start.image, start.box)
    times = np.arange(config.period - 2.4, config.period, 1 / 15)
    frames = [scene.frame(time, index) for index, time in enumerate(times)]
    scores = [tracker.track(frame.image).score for frame in frames]
    seen = [score for score, frame in zip(scores, frames, strict=True) if frame.visibility > 0.9]
    gone = [score for score, frame in zip(scores, frames, strict=True) if frame.visibility == 0]
    assert len(seen) > 5
    assert len(gone) > 5
    assert np.mean(gone) < np.mean(seen) - 0.2
