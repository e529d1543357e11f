# SPDX-License-Identifier: Apache-2.0
"""Rates and delays over the last few seconds."""

from __future__ import annotations

import threading
import time
from collections import deque

__all__ = ["RateMeter", "Window"]


class RateMeter:
    """Events per second over the last ``window_s`` seconds; safe between threads."""

    def __init__(self, window_s: float = 2.0) -> None:
        self._window = window_s
        self._times: deque[float] = deque()
        self._lock = threading.Lock()

    def tick(self) -> None:
        """Count one event, now."""
        with self._lock:
            self._times.append(time.monotonic())
            self._trim()

    @property
    def hertz(self) -> float:
        """The rate; 0 with fewer than two events in the window."""
        with self._lock:
            self._trim()
            if len(self._times) < 2:
                return 0.0
            return (len(self._times) - 1) / max(self._times[-1] - self._times[0], 1e-9)

    def _trim(self) -> None:
        oldest = time.monotonic() - self._window
        while self._times and self._times[0] < oldest:
            self._times.popleft()


class Window:
    """The last values of a quantity; safe between threads."""

    def __init__(self, size: int = 120) -> None:
        self._values: deque[float] = deque(maxlen=size)
        self._lock = threading.Lock()

    def add(self, value: float) -> None:
        """Take in one value."""
        with self._lock:
            self._values.append(value)

    def quantile(self, share: float) -> float:
        """The value below which ``share`` of the kept ones lie; 0 while there is none."""
        with self._lock:
            ordered = sorted(self._values)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0

    def clear(self) -> None:
        """Forget all values."""
        with self._lock:
            self._values.clear()
