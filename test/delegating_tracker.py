# SPDX-License-Identifier: Apache-2.0
"""A tracker that hands everything to another one, for tests that change one thing about it."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from tracker_ros.tracker import Tracker, TrackResult


class DelegatingTracker(Tracker):
    """Does what `inner` does."""

    def __init__(self, inner: Tracker) -> None:
        self.inner = inner

    def initialize(self, image: np.ndarray, box: Sequence[float]) -> None:
        self.inner.initialize(image, box)

    def track(self, image: np.ndarray) -> TrackResult:
        return self.inner.track(image)

    def fork(self) -> DelegatingTracker:
        further = copy.copy(self)
        further.inner = self.inner.fork()
        return further

    def update_model(self) -> None:
        self.inner.update_model()

    def warm_up(self) -> None:
        self.inner.warm_up()

    @property
    def runtime_info(self) -> dict[str, str]:
        return self.inner.runtime_info
