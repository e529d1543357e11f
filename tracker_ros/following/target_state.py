# SPDX-License-Identifier: Apache-2.0
"""What is known about the target, as data: idle, loading, tracking, uncertain or lost.

A tracker always returns a box, also when its target is gone. The score says how much that box is
worth, but it flickers from frame to frame, so a bare threshold would flicker too. Two thresholds
and a time give hysteresis:

* ``score_found`` or above: the target is there (TRACKING), from whatever state.
* below ``score_lost``: TRACKING turns into UNCERTAIN, and after ``lost_after`` seconds without a
  single score of ``score_lost`` or above, into LOST.
* in between nothing changes: a tracked target stays tracked, a lost one stays lost.

Some trackers judge each frame themselves (TrDiMP: normal, hard negative, uncertain, not found).
Their word then takes the place of the thresholds: found, seen but not found, or not seen.

A target that is found again keeps its id; a new selection gets a new one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from enum import IntEnum

from tracker_ros.tracker import Verdict

__all__ = ["TargetState", "TargetStateMachine"]


class TargetState(IntEnum):
    """State of the target; the numbers are those of ``tracker_interfaces/msg/TargetStatus``."""

    IDLE = 0
    LOADING = 1
    TRACKING = 2
    UNCERTAIN = 3
    LOST = 4


class TargetStateMachine:
    """Hysteresis over scores, and the target's identity.

    Times are seconds on any one clock (image stamps, as a rule). A clock that jumps back, as when
    a recording starts again, neither loses nor revives the target: elapsed time is kept.

    The default thresholds were measured with `ostrack_tiny` on eleven real sequences: of the
    frames on which its box was right (IoU above 0.4), 0.2 % scored below 0.45, none below 0.35.

    Args:
        score_found: Score in [0, 1] at and above which the target counts as found.
        score_lost: Score in [0, 1] below which it counts as not seen; at most ``score_found``.
        lost_after: Seconds without being seen after which it is LOST; 0 or more.
        ids: Numbers for targets to come; machines that share them give each target another one.

    Raises:
        ValueError: A threshold is out of range or ``score_lost`` exceeds ``score_found``.
    """

    def __init__(
        self,
        score_found: float = 0.45,
        score_lost: float = 0.35,
        lost_after: float = 1.0,
        ids: Iterator[int] | None = None,
    ) -> None:
        self._state = TargetState.IDLE
        self._target_id = ""
        self._label = ""
        self._score = 0.0
        self._ids = itertools.count(1) if ids is None else ids
        self._last_time: float | None = None
        self._last_seen: float | None = None
        self.set_limits(score_found, score_lost, lost_after)

    @property
    def state(self) -> TargetState:
        """The state now."""
        return self._state

    @property
    def target_id(self) -> str:
        """Id of the selected target, empty when there is none."""
        return self._target_id

    @property
    def label(self) -> str:
        """Label given at selection, empty when there is none."""
        return self._label

    @property
    def score(self) -> float:
        """Score of the last frame, in [0, 1]; 0 without a target."""
        return self._score

    @property
    def has_target(self) -> bool:
        """Whether a target is selected (it may be lost)."""
        return bool(self._target_id)

    @property
    def seconds_since_seen(self) -> float:
        """Seconds between the last update and the last sight of the target; 0 without one."""
        if self._last_time is None or self._last_seen is None:
            return 0.0
        return self._last_time - self._last_seen

    def set_limits(self, score_found: float, score_lost: float, lost_after: float) -> None:
        """Change the thresholds; they apply from the next update on.

        Raises:
            ValueError: As for the constructor; the old thresholds then stay.
        """
        for name, value in (("score_found", score_found), ("score_lost", score_lost)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} is {value}, wanted a number from 0 to 1")
        if score_lost > score_found:
            raise ValueError(
                f"score_lost is {score_lost}, wanted at most score_found ({score_found}): "
                "a target is lost below a lower score than it is found at"
            )
        if not (lost_after >= 0.0 and math.isfinite(lost_after)):
            raise ValueError(f"lost_after is {lost_after}, wanted seconds, 0 or more")
        self._score_found = float(score_found)
        self._score_lost = float(score_lost)
        self._lost_after = float(lost_after)

    def loading(self) -> None:
        """The model is being loaded; a target of an earlier model is forgotten."""
        self.clear()
        self._state = TargetState.LOADING

    def loaded(self) -> None:
        """The model is ready (or loading has failed): nothing is selected yet."""
        if self._state is TargetState.LOADING:
            self._state = TargetState.IDLE

    def select(self, time_s: float = 0.0, label: str = "") -> str:
        """Start following a new target, seen at ``time_s``.

        Returns:
            The new target's id, different from every earlier one of this machine.
        """
        self._target_id = str(next(self._ids))
        self._label = label
        self._score = 1.0
        self._state = TargetState.TRACKING
        self._last_time = self._last_seen = float(time_s)
        return self._target_id

    def clear(self) -> None:
        """Forget the target."""
        self._state = TargetState.IDLE
        self._target_id = ""
        self._label = ""
        self._score = 0.0
        self._last_time = self._last_seen = None

    def pause(self) -> None:
        """Report IDLE while nothing is tracked; the target and its id are kept."""
        if self.has_target:
            self._state = TargetState.IDLE
            self._score = 0.0

    def resume(self) -> None:
        """Look for the kept target again: UNCERTAIN until a score of ``score_found`` is seen.

        The pause itself does not count as time without sight.
        """
        if self.has_target and self._state is TargetState.IDLE:
            self._state = TargetState.UNCERTAIN
            self._last_time = self._last_seen = None

    def update(self, score: float, time_s: float, flag: Verdict | None = None) -> TargetState:
        """Take in one tracked frame.

        Args:
            score: The tracker's confidence; one that is not finite means not seen.
            time_s: Time of the frame, seconds.
            flag: The tracker's own verdict, which then decides in place of the thresholds:
                ``not_found`` is not seen, ``uncertain`` is seen but not found, the others are
                found. None leaves it to the score.

        Returns:
            The state after this frame. Without a target nothing changes.
        """
        if not self.has_target or self._state is TargetState.IDLE:
            return self._state
        self._score = float(score) if math.isfinite(score) else 0.0
        if not math.isfinite(score):
            flag = Verdict.NOT_FOUND
        self._advance(time_s)
        if flag is None:
            seen, found = self._score >= self._score_lost, self._score >= self._score_found
        else:
            seen = flag is not Verdict.NOT_FOUND
            found = seen and flag is not Verdict.UNCERTAIN
        doubtful = not seen or flag is Verdict.UNCERTAIN
        if found:
            self._state = TargetState.TRACKING
        elif self._state is TargetState.TRACKING and doubtful:
            self._state = TargetState.UNCERTAIN
        if found or (seen and self._state is not TargetState.LOST):
            self._last_seen = self._last_time
        self._lose_if_overdue()
        return self._state

    def no_frame(self, time_s: float) -> TargetState:
        """Take note that by ``time_s`` no new frame has come: the target may be overdue.

        Returns:
            The state after it.
        """
        if self.has_target and self._state is not TargetState.IDLE:
            self._advance(time_s)
            self._lose_if_overdue()
        return self._state

    def _advance(self, time_s: float) -> None:
        """Move to ``time_s``, keeping the elapsed time if the clock has jumped back."""
        if self._last_time is None or self._last_seen is None:
            self._last_seen = time_s
        elif time_s < self._last_time:
            self._last_seen = time_s - (self._last_time - self._last_seen)
        self._last_time = time_s

    def _lose_if_overdue(self) -> None:
        if self.seconds_since_seen > self._lost_after and self._state in (
            TargetState.TRACKING,
            TargetState.UNCERTAIN,
        ):
            self._state = TargetState.LOST
