# SPDX-License-Identifier: Apache-2.0
"""A follower without a camera, a worker or a network: frames come when the test says so."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
from std_msgs.msg import Header

from tracker_ros.following.follower import Follower
from tracker_ros.following.frames import FrameBuffer
from tracker_ros.following.selection import Selection
from tracker_ros.following.target_set import TargetSet
from tracker_ros.tracker import Tracker, TrackResult

BOX = (10.0, 10.0, 20.0, 20.0)


class Fixed(Tracker):
    """Says the same box of every frame, or fails when asked to.

    Attributes:
        seen: What it was started on and what it has tracked since: the frames' first pixels.
        score: Of its results.
        takes: Called before each frame is tracked.
    """

    fails = False
    score = 0.9
    takes = staticmethod(lambda: None)

    def initialize(self, image, box):
        self.seen = [int(image[0, 0, 0])]

    def track(self, image):
        self.takes()
        if self.fails:
            raise RuntimeError("no box today")
        self.seen.append(int(image[0, 0, 0]))
        return TrackResult(BOX, self.score, None, BOX)

    def warm_up(self):
        pass


class Bench:
    """A follower whose camera is in the test's hands."""

    def __init__(self, make_message):
        self.make_message = make_message
        self.buffer = FrameBuffer(60.0, 10_000_000)
        self.tracker = Fixed()
        self.reports = []
        self.targets = TargetSet()
        self.follower = Follower(
            self.buffer,
            self.targets,
            report=self.reports.append,
            complain=lambda text: None,
            wants_image=lambda: False,
            topic="image",
        )
        self.follower.load(lambda: self.tracker)
        self.follower.loaded()

    def arrive(self, count=1, encoding="rgb8"):
        """Images come, one a second; the last one as the mailbox would hold it."""
        for _ in range(count):
            header = Header(frame_id="camera")
            header.stamp.sec = self.buffer.arrivals + 1
            pixels = np.full((48, 64, 3), header.stamp.sec, np.uint8)
            image = self.make_message(pixels, header, encoding)
            frame = self.buffer.add(header.stamp.sec * 10**9, image, len(image.data))
        return frame

    def ask(self, second, append=False):
        """Select on the image of that second; the id."""
        outcome = self.follower.select(Selection(second * 10**9, "", BOX, "", append=append))
        assert outcome.success, outcome.message
        return outcome.target_id

    def select(self, second, append=False):
        """Select on the image of that second and catch up with the newest; the id."""
        target_id = self.ask(second, append)
        while self.follower.catch_up():
            pass
        return target_id

    def seen(self):
        """What each target's tracker has seen, by id."""
        return {target.target_id: target.tracker.seen for target in self.targets.targets}

    def counts(self):
        """The newest counts; those of every report must add up."""
        for counts in (report.counts for report in self.reports):
            assert counts.received == (
                counts.tracked + counts.dropped + counts.rejected + counts.idle
            )
        return {name: count for name, count in asdict(self.reports[-1].counts).items() if count}
