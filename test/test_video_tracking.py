# SPDX-License-Identifier: Apache-2.0
"""Tests of `track_video`, with a tracker that finds the target where it was."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

import tracker_ros
from tracker_ros import TrackResult, Verdict, track_video
from tracker_ros.following.target_state import TargetState
from tracker_ros.io.sources import open_video
from tracker_ros.tracker import Tracker

BOX = (8.0, 6.0, 20.0, 10.0)
IMAGES = [np.full((40, 60, 3), 20 * index, np.uint8) for index in range(4)]


class Still(Tracker):
    """Finds the target where it was, in the first two images that it is given to track."""

    updates = 0

    def initialize(self, image, box):
        self.box, self.seen = tuple(box), [int(image[0, 0, 0])]

    def track(self, image):
        self.seen.append(int(image[0, 0, 0]))
        verdict = Verdict.NORMAL if len(self.seen) < 4 else Verdict.NOT_FOUND
        return TrackResult(self.box, 0.5, None, self.box, image[..., 0] > 30, verdict)

    def update_model(self):
        self.updates += 1

    def warm_up(self):
        self.warm = True


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the images."""
    path = tmp_path_factory.mktemp("images")
    for index, image in enumerate(IMAGES):
        cv2.imwrite(str(path / f"{index}.png"), image)
    return path


def test_every_frame_has_a_result():
    tracker = Still()
    results = list(track_video(IMAGES, BOX, model=tracker, fps=10.0))
    assert tracker.warm
    assert tracker.seen == [0, 20, 40, 60]
    assert tracker.updates == 2, "not in a frame without the target"
    assert [result.index for result in results] == [0, 1, 2, 3]
    assert [result.time for result in results] == [0.0, 0.1, 0.2, 0.3]
    assert [result.box for result in results] == [BOX] * 4
    assert [result.score for result in results] == [1.0, 0.5, 0.5, 0.5]
    assert [result.verdict for result in results] == [
        None, Verdict.NORMAL, Verdict.NORMAL, Verdict.NOT_FOUND,
    ]  # fmt: skip
    assert [result.state for result in results] == [*[TargetState.TRACKING] * 3, 3]
    assert results[0].mask is None
    assert results[2].mask.all()
    assert all(result.image is image for result, image in zip(results, IMAGES, strict=True))
    assert results[0].seconds == 0.0
    assert results[1].seconds > 0.0


def test_frames_are_read_and_tracked_one_by_one():
    tracker = Still()
    results = track_video(iter(IMAGES), BOX, model=tracker)
    assert not hasattr(tracker, "seen")
    assert next(results).index == 0
    assert tracker.seen == [0]
    assert next(results).index == 1
    assert tracker.seen == [0, 20]


@pytest.mark.parametrize("opened", [False, True])
def test_a_source_is_a_name_or_what_open_video_returns(folder, opened):
    source = open_video(folder, fps=5.0) if opened else str(folder)
    results = list(track_video(source, BOX, model=Still(), fps=None if opened else 5.0))
    assert [result.time for result in results] == [0.0, 0.2, 0.4, 0.6]


def test_a_model_is_made_by_its_name(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "tracker_ros.video_tracking.create_tracker",
        lambda name, **options: asked.append((name, options)) or Still(),
    )
    next(track_video(folder, BOX))
    next(track_video(folder, BOX, model="some", device="cpu"))
    assert asked == [(tracker_ros.DEFAULT_MODEL, {}), ("some", {"device": "cpu"})]


def test_a_mask_starts_the_tracker_on_its_pixels():
    mask = np.zeros((40, 60), bool)
    mask[6:16, 8:28] = True
    (first, *_) = track_video(IMAGES, mask=mask, model=Still())
    assert first.box == BOX


def test_a_source_may_know_the_box():
    (first,) = track_video("synthetic:3#frames=0:1", model=Still())
    assert first.box == open_video("synthetic:3").first_box


@pytest.mark.parametrize(
    ("source", "arguments", "error"),
    [
        ("nowhere.mp4", {"box": BOX}, FileNotFoundError),
        (IMAGES, {}, ValueError),
        (IMAGES, {"box": BOX, "mask": np.ones((40, 60), bool)}, ValueError),
        (IMAGES, {"box": BOX, "device": "cpu"}, ValueError),
        (IMAGES, {"box": BOX[:3]}, ValueError),
        (IMAGES, {"box": BOX, "fps": 0.0}, ValueError),
        (IMAGES, {"box": BOX, "model": "ostrak"}, ValueError),
        (IMAGES, {"mask": np.zeros((40, 60), bool)}, ValueError),
        (IMAGES, {"mask": np.eye(2, dtype=np.uint8).repeat(20, 0) + 1}, ValueError),
    ],
)
def test_bad_arguments_are_refused_at_once(source, arguments, error):
    with pytest.raises(error):
        track_video(source, **{"model": Still(), **arguments})


@pytest.mark.parametrize(
    ("images", "arguments", "message"),
    [
        ([], {"box": BOX}, "gave no frame"),
        (IMAGES, {"mask": np.ones((4, 6), bool)}, "has shape"),
    ],
)
def test_what_only_the_first_frame_shows_is_refused_there(images, arguments, message):
    results = track_video(images, model=Still(), **arguments)
    with pytest.raises(ValueError, match=message):
        next(results)
