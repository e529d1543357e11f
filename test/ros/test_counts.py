# SPDX-License-Identifier: Apache-2.0
"""Every image is counted once, whatever becomes of it."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from std_msgs.msg import Header

from tracker_ros.frame_buffer import FrameBuffer
from tracker_ros.nodes.follower import Follower
from tracker_ros.nodes.selection import Selection
from tracker_ros.target_state import TargetStateMachine
from tracker_ros.tracker import Tracker, TrackResult

BOX = (10.0, 10.0, 20.0, 20.0)


class Fixed(Tracker):
    """Says the same box of every frame, or fails when asked to."""

    fails = False

    def initialize(self, image, box):
        pass

    def track(self, image):
        if self.fails:
            raise RuntimeError("no box today")
        return TrackResult(BOX, 0.9, None, BOX)

    def warm_up(self):
        pass


class Bench:
    """A follower whose camera is in the test's hands."""

    def __init__(self, make_message):
        self.make_message = make_message
        self.buffer = FrameBuffer(60.0, 10_000_000)
        self.tracker = Fixed()
        self.reports = []
        self.follower = Follower(
            self.buffer,
            TargetStateMachine(),
            report=self.reports.append,
            complain=lambda text: None,
            wants_image=lambda: False,
            topic="image",
        )
        self.follower.load(lambda: self.tracker)
        self.follower.loaded()

    def arrive(self, count=1, encoding="rgb8"):
        """Images come; the last one as the mailbox would hold it."""
        for _ in range(count):
            header = Header(frame_id="camera")
            header.stamp.sec = self.buffer.arrivals + 1
            image = self.make_message(np.zeros((48, 64, 3), np.uint8), header, encoding)
            frame = self.buffer.add(header.stamp.sec * 10**9, image, len(image.data))
        return frame

    def select(self, second):
        """Select on the image of that second and catch up with the newest."""
        outcome = self.follower.select(Selection(second * 10**9, "", BOX, ""))
        assert outcome.success, outcome.message
        while self.follower.catch_up():
            pass

    def counts(self):
        """The newest counts; those of every report must add up."""
        for counts in (report.counts for report in self.reports):
            assert counts.received == (
                counts.tracked + counts.dropped + counts.rejected + counts.idle
            )
        return {name: count for name, count in asdict(self.reports[-1].counts).items() if count}


@pytest.fixture
def bench(make_message):
    return Bench(make_message)


def test_images_pass_by_while_nothing_is_followed(bench):
    bench.follower.process(bench.arrive())
    bench.follower.process(bench.arrive(3))
    assert bench.counts() == {"received": 4, "idle": 2, "dropped": 2}


def test_what_is_replayed_was_counted_when_it_came(bench):
    for _ in range(4):
        bench.follower.process(bench.arrive())
    bench.select(2)
    assert bench.counts() == {"received": 4, "idle": 4}
    bench.follower.process(bench.arrive(2))
    assert bench.counts() == {"received": 6, "idle": 4, "dropped": 1, "tracked": 1}


def test_what_comes_during_a_replay_is_counted_by_it(bench):
    bench.follower.process(bench.arrive())
    bench.arrive(3)
    bench.select(2)
    assert bench.counts() == {"received": 4, "idle": 1, "tracked": 3}
    newest = bench.buffer.newest
    bench.follower.process(newest)
    assert bench.counts()["received"] == 4, "the replay was there already"


def test_an_image_that_gives_nothing_is_rejected(bench):
    bench.arrive()
    bench.select(1)
    bench.follower.process(bench.arrive(encoding="secret9"))
    bench.tracker.fails = True
    bench.follower.process(bench.arrive(2))
    assert bench.counts() == {
        "received": 4, "tracked": 1, "rejected": 2, "dropped": 1, "faults": 1,
    }  # fmt: skip


def test_a_pause_and_a_fresh_start(bench):
    bench.arrive()
    bench.select(1)
    bench.follower.enable(False)
    bench.follower.process(bench.arrive())
    assert bench.counts() == {"received": 2, "tracked": 1, "idle": 1}
    bench.arrive(2)
    bench.follower.reset()
    assert bench.counts() == {}
    bench.follower.process(bench.arrive(2))
    assert bench.counts() == {"received": 2, "dropped": 1, "idle": 1}
