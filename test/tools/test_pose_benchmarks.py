# SPDX-License-Identifier: Apache-2.0
"""Accuracy of pose and prediction, against scenes and motions of which everything is known."""

from __future__ import annotations

import numpy as np
import pytest

from tools.benchmarks.pose_accuracy import RATE_HZ, measure
from tools.benchmarks.prediction import MOTIONS, errors_px
from tools.demo.rgbd_scene import RgbdScene


@pytest.fixture(scope="module")
def scene_and_frames():
    scene = RgbdScene()
    return scene, [scene.frame(index / RATE_HZ) for index in range(0, 60, 2)]


def test_distance_and_bearing_are_right_on_the_drawn_scene(scene_and_frames):
    scene, frames = scene_and_frames
    found = measure(scene, frames, [frame.box for frame in frames])
    assert found["located"] >= 0.95 * len(frames)
    assert found["distance_p50_percent"] < 2.0
    assert found["bearing_p95_px"] < 0.5


def test_a_known_size_gives_a_coarser_distance(scene_and_frames):
    scene, frames = scene_and_frames
    found = measure(scene, frames, [frame.box for frame in frames], size_m=1.3)
    assert found["distance_p50_percent"] < 5.0


def test_offsets_that_last_are_told_from_jitter(scene_and_frames):
    scene, frames = scene_and_frames
    true = [frame.box for frame in frames]

    def found(right):
        shifted = [(x + r, y - 3.0, w, h) for (x, y, w, h), r in zip(true, right, strict=True)]
        return measure(scene, frames, shifted)

    steps = np.arange(len(true))
    slow, jitter = (
        found(2.0 + np.sin(0.2 * steps)),
        found(2.0 + np.random.default_rng(0).normal(size=len(true))),
    )
    assert (slow["mean_right_px"], slow["mean_down_px"]) == pytest.approx((2.0, -3.0), abs=0.5)
    assert slow["persistence"] > 0.8
    assert abs(jitter["persistence"]) < 0.5
    assert slow["bearing_p50_px"] > 3.0


def test_the_scene_shows_its_target_where_it_says(scene_and_frames):
    scene, frames = scene_and_frames
    frame = scene.frame(0.0, post=False)
    x, y, w, h = (round(value) for value in frame.box)
    inside = frame.depth_mm[y + 4 : y + h - 4, x + 4 : x + w - 4] / 1000
    assert np.median(inside) == pytest.approx(frame.point[2], rel=0.01)
    around = frame.depth_mm[y : y + h // 2, x + w + 4 : x + w + 20] / 1000
    assert np.median(around) > frame.point[2] + 1.0
    centre = scene.camera.project(frame.point[None])[0] + 0.5
    assert centre == pytest.approx([frame.box[0] + w / 2, frame.box[1] + h / 2], abs=1.0)


def test_prediction_pays_for_what_moves():
    seen, predicted = errors_px(MOTIONS["passes by at 150 px/s"], 0.06, seconds=10.0)
    assert np.median(predicted) < 0.5 * np.median(seen)
