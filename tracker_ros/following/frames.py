# SPDX-License-Identifier: Apache-2.0
"""The last few seconds of frames, so that a box can start on the frame it was drawn on.

By the time a person or a detector has drawn a box, the camera has moved on. The selection names
the stamp of its frame; the buffer still has that frame and those that came after it. Memory is
bounded twice: by time and by bytes.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["FrameBuffer", "StampedFrame"]

T = TypeVar("T")


@dataclass(frozen=True)
class StampedFrame(Generic[T]):
    """One frame and its time.

    Attributes:
        stamp_ns: Stamp of the image, nanoseconds.
        frame: The image, in whatever form the owner of the buffer keeps it.
        byte_count: Bytes that it keeps in memory.
        number: Its place in the order of arrival, counted from 1.
    """

    stamp_ns: int
    frame: T
    byte_count: int
    number: int


class FrameBuffer(Generic[T]):
    """Frames in the order of their stamps, bounded by time and by bytes; safe between threads.

    The newest frame is always kept, however large. A frame that carries the newest stamp again
    replaces the one before. A stamp that jumps back means that a recording has started anew, or
    that a clock was set: the frames before it are forgotten, because their stamps no longer tell
    an order.

    Args:
        max_seconds: How far back from the newest stamp frames are kept.
        max_bytes: How many bytes the kept frames may have together.

    Raises:
        ValueError: A bound is negative.
    """

    def __init__(self, max_seconds: float, max_bytes: int) -> None:
        self._lock = threading.Lock()
        self._frames: deque[StampedFrame[T]] = deque()
        self._bytes = 0
        self._arrivals = 0
        self._sequence = 0
        self.set_limits(max_seconds, max_bytes)

    def __len__(self) -> int:
        with self._lock:
            return len(self._frames)

    @property
    def byte_count(self) -> int:
        """Bytes of all kept frames."""
        with self._lock:
            return self._bytes

    @property
    def arrivals(self) -> int:
        """How many frames have been taken in, the number of the last one."""
        with self._lock:
            return self._arrivals

    @property
    def sequence(self) -> int:
        """How many times the stamps have jumped back."""
        with self._lock:
            return self._sequence

    @property
    def newest(self) -> StampedFrame[T] | None:
        """The frame with the newest stamp, or None while there is none."""
        with self._lock:
            return self._frames[-1] if self._frames else None

    @property
    def oldest(self) -> StampedFrame[T] | None:
        """The oldest frame that is still kept, or None while there is none."""
        with self._lock:
            return self._frames[0] if self._frames else None

    def set_limits(self, max_seconds: float, max_bytes: int) -> None:
        """Change the bounds and drop what exceeds them.

        Raises:
            ValueError: A bound is negative; the old bounds then stay.
        """
        if not max_seconds >= 0:
            raise ValueError(f"max_seconds is {max_seconds}, wanted seconds, 0 or more")
        if not max_bytes >= 0:
            raise ValueError(f"max_bytes is {max_bytes}, wanted bytes, 0 or more")
        with self._lock:
            self._max_ns = round(max_seconds * 1e9)
            self._max_bytes = max_bytes
            self._trim()

    def add(self, stamp_ns: int, frame: T, byte_count: int) -> StampedFrame[T]:
        """Take in the newest frame and drop those that exceed the bounds.

        Args:
            stamp_ns: Its stamp, nanoseconds.
            frame: The image.
            byte_count: Bytes that it keeps in memory.

        Returns:
            The frame as it is kept.
        """
        with self._lock:
            self._arrivals += 1
            entry = StampedFrame(stamp_ns, frame, byte_count, self._arrivals)
            newest = self._frames[-1].stamp_ns if self._frames else stamp_ns
            if stamp_ns < newest:
                self._sequence += 1
                self._forget()
            elif self._frames and stamp_ns == newest:
                self._bytes -= self._frames.pop().byte_count
            self._frames.append(entry)
            self._bytes += byte_count
            self._trim()
            return entry

    def clear(self) -> None:
        """Drop every frame."""
        with self._lock:
            self._forget()

    def nearest(self, stamp_ns: int, tolerance_ns: int = 0) -> StampedFrame[T] | None:
        """The frame with this stamp, or the nearest one.

        Args:
            stamp_ns: Stamp looked for, nanoseconds.
            tolerance_ns: Largest accepted distance; 0 accepts the exact stamp only.

        Returns:
            The frame, the older one of two equally near, or None if none is near enough.
        """
        with self._lock:
            if not self._frames:
                return None
            stamps = [f.stamp_ns for f in self._frames]
            right = bisect_left(stamps, stamp_ns)
            near = [self._frames[i] for i in (right - 1, right) if 0 <= i < len(stamps)]
            best = min(near, key=lambda f: abs(f.stamp_ns - stamp_ns))
            return best if abs(best.stamp_ns - stamp_ns) <= tolerance_ns else None

    def after(self, stamp_ns: int) -> list[StampedFrame[T]]:
        """Every kept frame newer than ``stamp_ns``, oldest first."""
        with self._lock:
            stamps = [f.stamp_ns for f in self._frames]
            return list(self._frames)[bisect_right(stamps, stamp_ns) :]

    def _forget(self) -> None:
        self._frames.clear()
        self._bytes = 0

    def _trim(self) -> None:
        frames = self._frames
        while len(frames) > 1 and (
            self._bytes > self._max_bytes
            or frames[-1].stamp_ns - frames[0].stamp_ns > self._max_ns
        ):
            self._bytes -= frames.popleft().byte_count
