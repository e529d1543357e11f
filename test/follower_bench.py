# SPDX-License-Identifier: Apache-2.0
"""A follower without a camera, a worker or a network: the test gives the frames and the time."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from tracker_ros.following.frames import FrameBuffer
from tracker_ros.following.live_follower import LiveFollower
from tracker_ros.following.selection import Selection, SelectionCode
from tracker_ros.following.target_set import TargetSet
from tracker_ros.tracker import Tracker, TrackResult

BOX = (10.0, 10.0, 20.0, 20.0)
SECOND = 10**9


class Fixed(Tracker):
    """Finds the same box in every frame, or fails on request.

    Attributes:
        seen: Numbers of the frames that it was started on and has tracked since.
        score: Score of its results.
        takes: Called before each frame is tracked.
    """

    fails = False
    score = 0.9
    takes = staticmethod(lambda: None)

    def initialize(self, image, box):
        if self.fails:
            raise RuntimeError("no box today")
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
    """A follower with one frame a second; the pixels of a frame are its number.

    Attributes:
        now: The follower's clock, seconds; it stands still unless a test moves it.
        fail_to_report: Whether reports raise.
    """

    fail_to_report = False

    def __init__(self):
        self.now = 100.0
        self.stamp_s = 0.0
        self.buffer = FrameBuffer(60.0, 10_000_000)
        self.tracker = Fixed()
        self.reports = []
        self.complaints = []
        self.outcomes = []
        self.targets = TargetSet()
        self.follower = LiveFollower(
            self.decode,
            self.targets,
            self.buffer,
            report=self.report,
            complain=lambda source, text, error: self.complaints.append((source, text)),
            topic="/image",
            clock=lambda: self.now,
        )
        self.follower.load(lambda: self.tracker)
        self.follower.loaded()

    def report(self, report):
        """Keep a report, or fail on request."""
        if self.fail_to_report:
            raise OSError("no report today")
        self.reports.append(report)

    @staticmethod
    def decode(payload):
        """Return a frame's pixels; a number below 0 cannot be read."""
        if payload < 0:
            raise ValueError(f"encoding {payload} is unknown")
        return np.full((48, 64, 3), payload, np.uint8)

    def arrive(self, count=1, readable=True, step_s=1.0):
        """Add frames to the buffer; return the last one, as the mailbox would hold it."""
        for _ in range(count):
            self.stamp_s += step_s
            number = (self.buffer.arrivals + 1) * (1 if readable else -1)
            frame = self.buffer.add(round(self.stamp_s * SECOND), number, 100, "camera")
        return frame

    def handle(self, count=1, **options):
        """Add frames and handle the last one; return its report."""
        return self.follower.handle(self.arrive(count, **options))

    def request(self, second=0.0, box=BOX, **options):
        """Select on the frame of that second; return the outcomes so far."""
        selection = Selection(box, stamp_ns=round(second * SECOND), **options)
        self.follower.select(selection, self.outcomes.append)
        return self.outcomes

    def ask(self, second, append=False):
        """Select on the frame of that second; return the id."""
        outcome = self.request(second, append=append)[-1]
        assert outcome.code is SelectionCode.OK, outcome.message
        return outcome.target_id

    def select(self, second, append=False):
        """Select on the frame of that second and catch up with the newest; return the id."""
        target_id = self.ask(second, append)
        while self.follower.catch_up():
            pass
        return target_id

    def seen(self):
        """Return the frames that each target's tracker has seen, by id."""
        return {target.target_id: target.tracker.seen for target in self.targets}

    def states(self):
        """Return the states in the newest report, by id."""
        return {target.target_id: target.state for target in self.reports[-1].targets}

    def counts(self):
        """Return the newest counts that are not 0; those of every report must add up."""
        for counts in (report.counts for report in self.reports):
            assert counts.received == (
                counts.tracked + counts.dropped + counts.rejected + counts.idle
            )
        return {name: count for name, count in asdict(self.reports[-1].counts).items() if count}
