# SPDX-License-Identifier: Apache-2.0
"""A camera that changes its resolution while a target is followed."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tracker_ros import create_tracker
from tracker_ros.following.follower import Follower
from tracker_ros.following.frames import number_frames
from tracker_ros.following.selection import Selection
from tracker_ros.following.target_set import TargetSet
from tracker_ros.following.target_state import TargetState
from tracker_ros.geometry import iou, scale_box

HEIGHT, WIDTH = 360, 480
CHANGE = 4


def scene(index: int) -> tuple[np.ndarray, tuple[float, ...]]:
    """Return an image with a textured rectangle, and its box."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(40, 160, (HEIGHT // 16, WIDTH // 16, 3)).astype(np.uint8)
    image = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    face = rng.integers(0, 255, (6, 5, 3)).astype(np.uint8)
    x, y, w, h = 150 + 4 * index, 120 + 2 * index, 60, 80
    image[y : y + h, x : x + w] = cv2.resize(face, (w, h), interpolation=cv2.INTER_NEAREST)
    return image, (x, y, w, h)


def frames(across: float, down: float, count: int = 9) -> list[np.ndarray]:
    """Return images that have another size from the fifth on."""
    images = [scene(i)[0] for i in range(count)]
    size = (round(WIDTH * across), round(HEIGHT * down))
    return [
        image if i < CHANGE else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        for i, image in enumerate(images)
    ]


@pytest.fixture(scope="module", params=["ostrack_tiny", "trdimp_tiny"])
def tracker(request):
    return create_tracker(request.param, device="cpu", backend="torch")


@pytest.mark.parametrize("scale", [0.5, 1.5, 2.0])
def test_the_box_scales_with_the_image(tracker, scale):
    images = frames(scale, scale)
    tracker.initialize(images[0], scene(0)[1])
    for index, image in enumerate(images[1:], 1):
        result = tracker.track(image)
        tracker.update_model()
        wanted = scale_box(scene(index)[1], (HEIGHT, WIDTH), image.shape[:2])
        assert iou(result.box, wanted) > 0.6, index


@pytest.mark.parametrize(
    ("across", "down", "states"), [(0.5, 0.5, "TTTTTTTT"), (0.75, 1.0, "TTTU"), (1.0, 0.5, "TTTU")]
)
def test_a_change_is_told_and_another_aspect_is_uncertain(tracker, across, down, states):
    lines: list[str] = []
    follower = Follower(lambda image: image, TargetSet(tracker=tracker), inform=lines.append)
    run = follower.follow([Selection(scene(0)[1])], number_frames(frames(across, down)))
    found = "".join(
        "U" if report.first.state is TargetState.UNCERTAIN else report.first.state.name[0]
        for report in run
    )
    assert found[1:].startswith(states)
    assert len(lines) == 1
    assert "480x360" in lines[0]


def test_sizes_that_alternate_are_told_once_each(tracker):
    lines: list[str] = []
    follower = Follower(lambda image: image, TargetSet(tracker=tracker), inform=lines.append)
    sizes = [(WIDTH, HEIGHT), (WIDTH // 2, HEIGHT // 2)] * 3 + [(WIDTH, HEIGHT // 2)]
    images = [cv2.resize(scene(0)[0], size) for size in sizes]
    states = [
        report.first.state
        for report in follower.follow([Selection(scene(0)[1])], number_frames(images))
    ]
    assert states[-1] is TargetState.UNCERTAIN
    assert [line.split()[5] for line in lines] == ["240x180", "480x360", "480x180"]
