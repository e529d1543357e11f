# SPDX-License-Identifier: Apache-2.0
"""The state of a target: tracking, uncertain or lost.

A tracker always returns a box, even when its target is gone. The score says how far to trust that
box, but it flickers from frame to frame, and a single threshold would flicker with it. Two
thresholds and a time give hysteresis:

* ``score_found`` or above: the target is there (TRACKING), whatever its state was.
* below ``score_lost``: TRACKING turns into UNCERTAIN, and after ``lost_after`` seconds without a
  single score of ``score_lost`` or above, into LOST.
* in between nothing changes: a tracked target stays tracked, a lost one stays lost.

Some trackers give a verdict on each frame (TrDiMP: normal, hard negative, uncertain, not found).
The verdict then replaces the thresholds: found, seen but not found, or not seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

from tracker_ros.tracker import Verdict


class TargetState(IntEnum):
    """State of a target, with the numbers of ``tracker_interfaces/msg/TargetStatus``."""

    IDLE = 0
    LOADING = 1
    TRACKING = 2
    UNCERTAIN = 3
    LOST = 4


class Doubt(IntEnum):
    """What speaks most against a result, with the numbers of ``TargetStatus``."""

    NONE = 0
    LOW_SCORE = 1
    JUMP = 2
    LOOK_ALIKE = 3
    SIZE = 4
    LOOK = 5
    LEFT_IMAGE = 6


VISIBLE = (TargetState.TRACKING, TargetState.UNCERTAIN)
"""States in which the box of a target is published."""


@dataclass(frozen=True)
class StateLimits:
    """Thresholds between the states.

    Scores of models with a calibration are probabilities, so that 0.5 means as likely right as
    wrong; see `tracker_ros.calibration`.

    Raises:
        ValueError: A threshold is out of range or ``score_lost`` exceeds ``score_found``.
    """

    score_found: float = 0.6  # score in [0, 1] at and above which the target counts as found
    # score in [0, 1] below which it counts as not seen; at most ``score_found``
    score_lost: float = 0.5
    lost_after: float = 1.0  # seconds without being seen after which it is LOST; 0 or more

    def __post_init__(self) -> None:
        for name in ("score_found", "score_lost"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} is {value}, wanted a number from 0 to 1")
        if self.score_lost > self.score_found:
            raise ValueError(
                f"score_lost is {self.score_lost}, wanted at most score_found "
                f"({self.score_found}): a target is lost below a lower score than it is found at"
            )
        if not (self.lost_after >= 0.0 and math.isfinite(self.lost_after)):
            raise ValueError(f"lost_after is {self.lost_after}, wanted seconds, 0 or more")


class TargetStateMachine:
    """Hysteresis over the scores of one target.

    Times are seconds on any one clock (image stamps, as a rule). A clock that jumps back, as when
    a recording starts again, neither loses nor revives the target: elapsed time is kept.

    Args:
        time_s: When the target was selected; it counts as seen then.
        limits: Thresholds between the states.

    Attributes:
        limits: The thresholds; may be replaced, from the next update on.
        state: The state now; IDLE while paused.
        score: Score of the last frame, in [0, 1]; 0 while paused.
    """

    def __init__(self, time_s: float, limits: StateLimits | None = None) -> None:
        self.limits = limits or StateLimits()
        self.state = TargetState.TRACKING
        self.score = 1.0
        self._last_time: float | None = float(time_s)
        self._last_seen: float | None = float(time_s)

    @property
    def seconds_since_seen(self) -> float:
        """Seconds between the last update and the last time the target was seen."""
        if self._last_time is None or self._last_seen is None:
            return 0.0
        return self._last_time - self._last_seen

    def pause(self) -> None:
        """Be IDLE and take no updates until `resume`."""
        self.state = TargetState.IDLE
        self.score = 0.0

    def resume(self) -> None:
        """End a pause, which does not count as time without sight: be UNCERTAIN until found."""
        if self.state is TargetState.IDLE:
            self.state = TargetState.UNCERTAIN
            self._last_time = self._last_seen = None

    def update(self, score: float, time_s: float, verdict: Verdict | None = None) -> TargetState:
        """Take the result of one frame into account, and return the new state.

        Args:
            score: The tracker's confidence; one that is not finite means not seen.
            time_s: Time of the frame, seconds.
            verdict: The tracker's own verdict, which replaces the thresholds: ``not_found`` is
                not seen, ``uncertain`` is seen but not found, the others are found. None leaves
                it to the score.
        """
        if self.state is TargetState.IDLE:
            return self.state
        self.score = float(score) if math.isfinite(score) else 0.0
        if not math.isfinite(score):
            verdict = Verdict.NOT_FOUND
        self._advance(time_s)
        if verdict is None:
            seen = self.score >= self.limits.score_lost
            found = self.score >= self.limits.score_found
        else:
            seen = verdict is not Verdict.NOT_FOUND
            found = seen and verdict is not Verdict.UNCERTAIN
        doubtful = not seen or verdict is Verdict.UNCERTAIN
        if found:
            self.state = TargetState.TRACKING
        elif self.state is TargetState.TRACKING and doubtful:
            self.state = TargetState.UNCERTAIN
        if found or (seen and self.state is not TargetState.LOST):
            self._last_seen = self._last_time
        self._lose_if_overdue()
        return self.state

    def no_frame(self, time_s: float) -> TargetState:
        """Note that no usable frame came up to ``time_s``, and return the new state."""
        if self.state is not TargetState.IDLE:
            self._advance(time_s)
            self._lose_if_overdue()
        return self.state

    def _advance(self, time_s: float) -> None:
        """Move to ``time_s``, keeping the elapsed time if the clock has jumped back."""
        if self._last_time is None or self._last_seen is None:
            self._last_seen = time_s
        elif time_s < self._last_time:
            self._last_seen = time_s - (self._last_time - self._last_seen)
        self._last_time = time_s

    def _lose_if_overdue(self) -> None:
        if self.seconds_since_seen > self.limits.lost_after:
            self.state = TargetState.LOST
