# SPDX-License-Identifier: Apache-2.0
"""Tests of cameras that share a network: passes together, failures alone."""

from __future__ import annotations

import pytest
from follower_bench import Bench, Fixed

from tracker_ros.following.several_cameras import handle_together
from tracker_ros.following.target_state import TargetState


class Shared(Fixed):
    """Takes several images in one pass; `passes` is shared by all forks."""

    shares_passes = True
    refuses = False

    def __init__(self):
        self.passes = []

    def track_images(self, others, images):
        self.passes.append(len(images))
        if self.refuses:
            raise RuntimeError("no pass today")
        return super().track_images(others, images)


class Cameras:
    """Two benches with one tracker and its fork."""

    def __init__(self, tracker):
        self.benches = front, left = Bench(), Bench()
        front.follower.use(tracker)
        left.follower.use(tracker.fork())
        self.failures = []
        for bench in self.benches:
            bench.arrive()
            bench.select(1.0)

    def handle(self):
        """Show each camera a frame."""
        waiting = [(bench.follower, bench.arrive()) for bench in self.benches]
        handle_together(waiting, lambda f, error: self.failures.append((f, error)))
        return [bench.reports[-1].first for bench in self.benches]


def test_frames_that_wait_together_take_one_pass():
    tracker = Shared()
    cameras = Cameras(tracker)
    front, left = cameras.benches
    assert [target.state for target in cameras.handle()] == [TargetState.TRACKING] * 2
    front.select(2.0, append=True)
    cameras.handle()
    assert tracker.passes == [2, 3]
    assert [len(bench.reports[-1].targets) for bench in cameras.benches] == [2, 1]
    assert [bench.counts() for bench in cameras.benches] == [{"received": 3, "tracked": 3}] * 2
    assert front.seen() == {"1": [1, 2, 3], "2": [2, 3]}
    assert left.seen() == {"1": [1, 2, 3]}


@pytest.mark.parametrize("shares", [True, False])
def test_one_camera_that_fails_does_not_disturb_the_other(shares):
    tracker = Shared()
    tracker.shares_passes = shares
    cameras = Cameras(tracker)
    front, left = cameras.benches
    front.fail_to_report = True
    _, seen = cameras.handle()
    assert [(f, type(error)) for f, error in cameras.failures] == [(front.follower, OSError)]
    assert seen.result is not None
    assert left.counts() == {"received": 2, "tracked": 2}


def test_an_unreadable_image_costs_only_its_camera_a_frame():
    cameras = Cameras(Shared())
    front, left = cameras.benches
    waiting = [(front.follower, front.arrive(readable=False)), (left.follower, left.arrive())]
    handle_together(waiting, pytest.fail)
    assert front.counts() == {"received": 2, "tracked": 1, "rejected": 1}
    assert left.counts() == {"received": 2, "tracked": 2}


def test_without_a_common_pass_each_camera_is_tracked_alone():
    tracker = Shared()
    tracker.refuses = True
    cameras = Cameras(tracker)
    for target in cameras.handle():
        assert target.state is TargetState.TRACKING
        assert target.result is not None
    assert cameras.failures == []


def test_a_fault_of_one_target_is_that_of_its_camera():
    cameras = Cameras(Shared())
    front, left = cameras.benches
    next(iter(front.targets)).tracker.fails = True
    lost, seen = cameras.handle()
    assert lost.result is None
    assert seen.result is not None
    assert [bench.counts().get("faults", 0) for bench in cameras.benches] == [1, 0]
