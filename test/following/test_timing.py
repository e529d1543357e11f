# SPDX-License-Identifier: Apache-2.0
"""How trackers are timed, with a clock that only trackers advance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tracker_ros.following import timing
from tracker_ros.tracker import Tracker, TrackResult


class Clock:
    """A clock that stands still unless a tracker works."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Working(Tracker):
    """Advances the clock by some seconds for each frame, and for an update of its model."""

    usual_size = (64, 80)

    def __init__(self, clock: Clock, track: float, update: float = 0.0) -> None:
        self.clock, self.seconds, self.update = clock, track, update
        self.target: Sequence[float] | None = None

    def initialize(self, image: np.ndarray, box: Sequence[float]) -> None:
        assert image.shape == (64, 80, 3)
        self.target = box

    def track(self, image: np.ndarray) -> TrackResult:
        assert self.target is not None
        self.clock.now += self.seconds
        return TrackResult((0, 0, 1, 1), 1.0, None, (0, 0, 1, 1))

    def update_model(self) -> None:
        self.clock.now += self.update

    def warm_up(self) -> None:
        """Nothing to warm."""


def test_each_tracker_gets_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    trackers = {"slow": Working(clock, 0.5, 0.125), "fast": Working(clock, 0.0625)}
    found = timing.seconds_per_frame(trackers)
    assert found == {"slow": 0.625, "fast": 0.0625}
    assert [tracker.target for tracker in trackers.values()] == [None, None]
