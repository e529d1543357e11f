# SPDX-License-Identifier: Apache-2.0
"""What the worker tells about a frame and its targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from std_msgs.msg import Header

from tracker_ros.following.target_state import TargetState, TargetStateMachine
from tracker_ros.tracker import TrackResult

__all__ = ["FrameCounts", "FrameReport", "TargetReport"]


@dataclass
class FrameCounts:
    """Images since the node became active; the fields of ``TargetStatus``, and faults.

    ``received`` is the sum of the next four; an image still in the mailbox is in none of them.
    """

    received: int = 0
    tracked: int = 0
    dropped: int = 0
    rejected: int = 0
    idle: int = 0
    faults: int = 0


@dataclass(frozen=True)
class TargetReport:
    """How one target is doing.

    Attributes:
        state: Its state; where nothing is followed, why not.
        target_id: Its id, empty without a target.
        label: Its label.
        score: Its score.
        seconds_since_seen: Since it was last seen.
        result: What its tracker said of the frame, where it was tracked and not a replayed one.
    """

    state: TargetState
    target_id: str = ""
    label: str = ""
    score: float = 0.0
    seconds_since_seen: float = 0.0
    result: TrackResult | None = None

    @staticmethod
    def of(
        machine: TargetStateMachine,
        result: TrackResult | None = None,
    ) -> TargetReport:
        """The report of a target in the state it is in."""
        return TargetReport(
            machine.state,
            machine.target_id,
            machine.label,
            machine.score,
            machine.seconds_since_seen,
            result,
        )


@dataclass(frozen=True)
class FrameReport:
    """What is known after one frame, or after a change without one.

    Attributes:
        header: The image's own header; None for a change without a frame.
        image: (H, W, 3) uint8 RGB, where the frame was decoded.
        targets: One report for each target, the first one selected first; where there is none, a
            single one that says so.
        gone: Ids of those that are followed no longer since the last report.
        processing_time: Seconds spent on decoding and tracking this frame.
        counts: The counters at this moment.
    """

    header: Header | None
    image: np.ndarray | None
    targets: tuple[TargetReport, ...]
    gone: tuple[str, ...]
    processing_time: float
    counts: FrameCounts

    @property
    def first(self) -> TargetReport:
        """The target that was selected first."""
        return self.targets[0]
