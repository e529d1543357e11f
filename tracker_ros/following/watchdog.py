# SPDX-License-Identifier: Apache-2.0
"""Notice that a worker's thread has died, or that it hangs in a job or a frame."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tracker_ros.following.worker import Worker
from tracker_ros.quoting import describe_error

_MAX_TURN_S = 1.0


class Watchdog:
    """Watches a worker; `check` is to be called about twice a second.

    The time between two checks counts for at most a second. So a process that was stopped, or a
    machine that slept, does not look like a worker that hangs.

    Args:
        worker: The worker.
        clock: Returns seconds that only grow.
    """

    def __init__(self, worker: Worker[Any], clock: Callable[[], float] = time.monotonic) -> None:
        self._worker = worker
        self._clock = clock
        self._step: int | None = None
        self._checked_s = clock()
        self._stuck_s = 0.0

    def check(self, limit_s: float, patient: bool = False) -> str:
        """Return what is wrong with the worker; empty if nothing is.

        Args:
            limit_s: Seconds that one step may take; 0 sets no limit.
            patient: Whether the present step may take as long as it likes.
        """
        now, step = self._clock(), self._worker.step
        passed, self._checked_s = now - self._checked_s, now
        if self._worker.death is not None:
            return f"the worker has ended: {describe_error(self._worker.death)}"
        if step is None or step != self._step or patient:
            self._step, self._stuck_s = step, 0.0
            return ""
        self._stuck_s += min(passed, _MAX_TURN_S)
        if 0 < limit_s <= self._stuck_s:
            return f"the model has been at work on one image or request for {self._stuck_s:.1f} s"
        return ""
