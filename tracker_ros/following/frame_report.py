# SPDX-License-Identifier: Apache-2.0
"""What a follower reports about a frame and its targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from tracker_ros.following.frames import Frame
from tracker_ros.following.target_state import TargetState
from tracker_ros.tracker import TrackResult

__all__ = ["FrameCounts", "FrameReport", "TargetReport"]

T = TypeVar("T")


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


@dataclass(frozen=True)
class TargetReport:
    """One target after a frame.

    Attributes:
        state: Its state; if no target is followed, IDLE or LOADING.
        target_id: Its id, empty if no target is followed.
        label: Its label.
        score: Score of its last frame, in [0, 1].
        seconds_since_seen: Seconds since it was last seen.
        result: The tracker's result, if the target was tracked in this very frame; None for
            replayed frames.
    """

    state: TargetState
    target_id: str = ""
    label: str = ""
    score: float = 0.0
    seconds_since_seen: float = 0.0
    result: TrackResult | None = None


@dataclass(frozen=True)
class FrameReport(Generic[T]):
    """Everything that is known after a frame, or after a change without one.

    Attributes:
        frame: The frame; None for a change without one.
        image: (H, W, 3) uint8 RGB, if the frame was decoded.
        targets: One report per target in the order of selection; if no target is followed, a
            single one that says so.
        gone: Ids of the targets that are no longer followed since the last report.
        processing_time: Seconds spent on decoding and tracking this frame.
        counts: The counters at this moment.
    """

    frame: Frame[T] | None
    image: np.ndarray | None
    targets: tuple[TargetReport, ...]
    gone: tuple[str, ...]
    processing_time: float
    counts: FrameCounts

    @property
    def first(self) -> TargetReport:
        """The target that was selected first."""
        return self.targets[0]
