# SPDX-License-Identifier: Apache-2.0
"""Frames, the reports about them, and a buffer of the last few seconds of frames.

By the time a person or a detector has drawn a box, the camera has moved on. The selection names
the stamp of its frame; the buffer still has that frame and those that came after it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

import numpy as np

from tracker_ros.following.frame_clock import FrameClock
from tracker_ros.following.target_state import Doubt, TargetState
from tracker_ros.tracker import TrackResult

T = TypeVar("T")


@dataclass(frozen=True)
class Frame(Generic[T]):
    """One frame of a stream."""

    stamp_ns: int  # stamp of the image, nanoseconds; 0 if the camera gives none
    number: int  # its place in the order of arrival, counted from 1
    frame_id: str  # name of the camera's coordinate frame; empty if it has none
    payload: T  # the image in the form in which it came: an array, a ROS message
    # time by which targets are judged, seconds: the stamp, or the time of arrival if the stamps
    # tell no time; see `FrameClock`
    time_s: float
    byte_count: int = 0  # bytes that the payload keeps in memory


def number_frames(payloads: Iterable[T], fps: float = 30.0) -> Iterator[Frame[T]]:
    """Yield images at a steady rate as frames, with times that start at 0."""
    return timed_frames((index / fps, payload) for index, payload in enumerate(payloads))


def timed_frames(images: Iterable[tuple[float, T]]) -> Iterator[Frame[T]]:
    """Yield the images of a video, each with its time in seconds, as frames."""
    for index, (time_s, payload) in enumerate(images):
        yield Frame(round(time_s * 1e9), index + 1, "", payload, time_s)


@dataclass
class FrameCounts:
    """Numbers of frames since the last reset, and of faults.

    ``received`` is the sum of the next four; a frame that still waits is in none of them.
    """

    received: int = 0
    tracked: int = 0
    dropped: int = 0
    rejected: int = 0
    idle: int = 0
    faults: int = 0


class FaultSource(Enum):
    """What is at fault if a frame gave no result: its image, or the model."""

    IMAGE = "image"
    MODEL = "model"


@dataclass(frozen=True)
class TargetReport:
    """One target after a frame."""

    state: TargetState  # its state; if no target is followed, IDLE or LOADING
    target_id: str = ""  # its id, empty if no target is followed
    label: str = ""  # its label
    # score of its last frame, in [0, 1]: the probability that the box is right, if the model has a
    # calibration
    score: float = 0.0
    doubt: Doubt = Doubt.NONE  # what speaks most against its last result
    seconds_since_seen: float = 0.0  # seconds since it was last seen
    # the tracker's result, if the target was tracked in this very frame; None for replayed frames
    result: TrackResult | None = None


@dataclass(frozen=True)
class FrameReport(Generic[T]):
    """Everything that is known after a frame, or after a change without one."""

    frame: Frame[T] | None  # the frame; None for a change without one
    image: np.ndarray | None  # (H, W, 3) uint8 RGB, if the frame was decoded
    # one report per target in the order of selection; if no target is followed, a single one that
    # says so
    targets: tuple[TargetReport, ...]
    gone: tuple[str, ...]  # ids of the targets that are no longer followed since the last report
    processing_time: float  # seconds spent on decoding and tracking this frame
    counts: FrameCounts  # the counters at this moment

    @property
    def first(self) -> TargetReport:
        """The target that was selected first."""
        return self.targets[0]


class FrameBuffer(Generic[T]):
    """Keeps frames in the order of their times, bounded by time and by bytes; thread-safe.

    The newest frame is always kept, however large. A frame with the same stamp as the newest one
    replaces it. A frame that is a little late is put in its place. A real jump of the stamps
    (`FrameClock`) begins a new sequence: the frames before it are dropped, because their stamps no
    longer give an order.

    Args:
        max_seconds: How far back from the newest frame frames are kept, seconds.
        max_bytes: How many bytes the kept frames may take together.
        time_now: Returns the time at which a frame arrives, seconds on a clock that only grows;
            None takes this machine's.

    Attributes:
        arrivals: Number of frames added so far, which is the number of the last one.
        clock: What is known of the stamps.

    Raises:
        ValueError: A bound is negative.
    """

    def __init__(
        self,
        max_seconds: float,
        max_bytes: int,
        time_now: Callable[[], float] | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._time_now = time_now
        self._frames: list[Frame[T]] = []
        self._bytes = 0
        self.arrivals = 0
        self.clock = FrameClock()
        self.set_limits(max_seconds, max_bytes)

    @property
    def frames(self) -> tuple[Frame[T], ...]:
        """All kept frames, the oldest first."""
        with self._lock:
            return tuple(self._frames)

    def set_limits(self, max_seconds: float, max_bytes: int) -> None:
        """Change the bounds and drop the frames that exceed them.

        Raises:
            ValueError: A bound is negative; the old bounds then stay.
        """
        if not max_seconds >= 0:
            raise ValueError(f"max_seconds is {max_seconds}, expected seconds, 0 or more")
        if not max_bytes >= 0:
            raise ValueError(f"max_bytes is {max_bytes}, expected bytes, 0 or more")
        with self._lock:
            self._max_s = max_seconds
            self._max_bytes = max_bytes
            self._trim()

    def add(self, stamp_ns: int, payload: T, byte_count: int, frame_id: str = "") -> Frame[T]:
        """Add a frame, as `Frame` describes it, and drop those that exceed the bounds."""
        with self._lock:
            self.arrivals += 1
            sequence = self.clock.sequence
            time_s = self.clock.time_of(stamp_ns, (self._time_now or time.monotonic)())
            frame = Frame(stamp_ns, self.arrivals, frame_id, payload, time_s, byte_count)
            if self.clock.sequence != sequence:
                self._drop_all()
            elif self._frames and stamp_ns == self._frames[-1].stamp_ns:
                self._bytes -= self._frames.pop().byte_count
            place = len(self._frames)
            while place and self._frames[place - 1].time_s > time_s:
                place -= 1
            self._frames.insert(place, frame)
            self._bytes += byte_count
            self._trim()
            return frame

    def is_newest(self, frame: Frame[T]) -> bool:
        """Whether no frame with a later time has been added."""
        with self._lock:
            return not self._frames or frame.time_s >= self._frames[-1].time_s

    def nearest(self, stamp_ns: int, tolerance_s: float) -> Frame[T] | None:
        """Return the frame with the nearest stamp; None if it differs by more than a tolerance.

        A second camera's buffer pairs its images by it, without waiting for them.
        """
        found = min(
            reversed(self.frames), key=lambda frame: abs(frame.stamp_ns - stamp_ns), default=None
        )
        if found is None or abs(found.stamp_ns - stamp_ns) > tolerance_s * 1e9:
            return None
        return found

    def clear(self) -> None:
        """Drop every frame."""
        with self._lock:
            self._drop_all()

    def _drop_all(self) -> None:
        self._frames.clear()
        self._bytes = 0

    def _trim(self) -> None:
        frames, drop = self._frames, 0
        # A time of today is exact to a quarter of a microsecond only.
        longest = self._max_s + (4 * math.ulp(frames[-1].time_s) if frames else 0.0)
        while drop < len(frames) - 1 and (
            self._bytes > self._max_bytes or frames[-1].time_s - frames[drop].time_s > longest
        ):
            self._bytes -= frames[drop].byte_count
            drop += 1
        del frames[:drop]
