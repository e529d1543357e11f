# SPDX-License-Identifier: Apache-2.0
"""Times trackers on a fixed image, to choose the back end that follows a target fastest."""

from __future__ import annotations

import copy
import itertools
import statistics
import time
from collections.abc import Mapping

import numpy as np

from tracker_ros.following.follower import Follower
from tracker_ros.following.frames import number_frames
from tracker_ros.following.selection import Selection
from tracker_ros.following.target_set import TargetSet
from tracker_ros.geometry import Box
from tracker_ros.tracker import Tracker, example_image

_SECONDS = 0.2
_FRAMES_PER_TURN = 3
_MIN_FRAMES = 4
_MIN_SIDE = 64


def seconds_per_frame(trackers: Mapping[str, Tracker]) -> dict[str, float]:
    """Return the median time that each tracker takes for a frame, in seconds.

    The trackers take turns for about 0.2 s each. They are copied first, so that none of them has
    a target afterwards.

    Args:
        trackers: By name; all follow the same target in the same image.
    """
    height, width = next(iter(trackers.values())).usual_size
    image, box = example_image(max(height, _MIN_SIDE), max(width, _MIN_SIDE))
    probes = {name: _Probe(copy.copy(tracker), image, box) for name, tracker in trackers.items()}
    taken: dict[str, list[float]] = {name: [] for name in probes}
    end = time.perf_counter() + _SECONDS * len(probes)
    while time.perf_counter() < end or min(map(len, taken.values())) < _MIN_FRAMES:
        for name, probe in probes.items():
            # The threads of the tracker before may still spin during the first frame.
            taken[name] += [probe.seconds() for _ in range(_FRAMES_PER_TURN)][1:]
    return {name: statistics.median(times) for name, times in taken.items()}


class _Probe:
    """Follows a target that stands still."""

    def __init__(self, tracker: Tracker, image: np.ndarray, box: Box) -> None:
        targets, clock = TargetSet(tracker=tracker), time.perf_counter
        self._follower = Follower[np.ndarray](lambda image: image, targets, clock=clock)
        frames = number_frames(itertools.repeat(image))
        self._reports = self._follower.follow(Selection(box), frames)
        next(self._reports)
        next(self._reports)

    def seconds(self) -> float:
        """Track one frame and return the seconds that it took."""
        before = self._follower.tracking_seconds
        next(self._reports)
        return self._follower.tracking_seconds - before
