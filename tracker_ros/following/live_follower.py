# SPDX-License-Identifier: Apache-2.0
"""The following loop beside a live camera: selections by stamp, and catching up.

A `FrameBuffer` keeps the last seconds of frames. A selection starts on the frame that it names.
Its target is then tracked through the frames since, while the others are tracked as usual.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from tracker_ros.following.follower import Follower, Step
from tracker_ros.following.frames import Frame, FrameBuffer, FrameReport
from tracker_ros.following.selection import (
    Outcome,
    Selection,
    SelectionCode,
    SelectionRefused,
    arrives_soon,
    check_selection,
    find_frame,
)
from tracker_ros.following.target_set import MAX_TARGETS, FollowedTarget, TargetSet
from tracker_ros.quoting import describe_error

T = TypeVar("T")

_SILENCE_S = 0.5
_SHORT_REPLAY_S = 0.5
_PATIENCE_S = 0.5


@dataclass(frozen=True)
class _Request:
    """A selection that waits for its frame."""

    selection: Selection
    answer: Callable[[Outcome], None]
    deadline_s: float


class LiveFollower(Follower[T]):
    """Follows targets through the frames of a live camera.

    Args:
        decode: As for `Follower`.
        targets: As for `Follower`.
        buffer: The last frames; another thread may add to it.
        topic: Name of the image topic, for messages.
        **options: As for `Follower`.
    """

    def __init__(
        self,
        decode: Callable[[T], np.ndarray],
        targets: TargetSet,
        buffer: FrameBuffer[T],
        topic: str = "the camera",
        **options: Any,
    ) -> None:
        super().__init__(decode, targets, **options)
        self._buffer = buffer
        self._topic = topic
        self._replays: dict[str, _Replay] = {}
        self._waiting: deque[_Request] = deque()
        self._counted = buffer.arrivals
        self._time_s = self._interval_s = 0.0
        self._arrived_s = self._clock()

    def reset(self) -> None:
        """Forget targets, pause, counters and place in the stream; keep the model."""
        super().reset()
        self._counted = self._buffer.arrivals
        self._arrived_s = self._clock()
        self._time_s = self._interval_s = 0.0

    def enable(self, enabled: bool) -> Outcome:
        """Pause or resume tracking; targets and model are kept."""
        if enabled == self._paused:
            self._replays.clear()
        return super().enable(enabled)

    def remove(self, target_id: str) -> Outcome:
        """Stop following one target; refused if there is none with this id."""
        self._replays.pop(target_id, None)
        return super().remove(target_id)

    def begin(self, frame: Frame[T]) -> Step[T] | FrameReport[T] | None:
        """Prepare the targets that do not lag behind for the newest frame; see `Follower`."""
        if frame.number > self._number:
            now = self._clock()
            self._interval_s, self._arrived_s = now - self._arrived_s, now
            self._time_s = frame.time_s
        return super().begin(frame)

    def select(self, selection: Selection, answer: Callable[[Outcome], None]) -> None:
        """Start following a target on the buffered frame that the selection names.

        If its stamp is slightly ahead of the newest frame, the request waits for that frame. If it
        would replace a target that still lags behind, it waits until that has caught up: else a
        detector that selects more often than a target needs to catch up would never see one
        followed. A request that waits is answered by a later `catch_up`. Requests that add a
        target wait behind it, any other one replaces those that wait. Present targets are kept if
        the request is refused. ``answer`` is called once with the outcome, now or later.
        """
        try:
            check_selection(selection)
        except SelectionRefused as refusal:
            answer(Outcome(refusal.code, refusal.message))
            return
        if not selection.append:
            self._interrupt_waiting("a newer selection has replaced it")
        elif len(self._waiting) >= MAX_TARGETS:
            text = f"{MAX_TARGETS} selections are waiting for their images: ask again"
            answer(Outcome(SelectionCode.BUSY, text))
            return
        self._waiting.append(_Request(selection, answer, self._clock() + _PATIENCE_S))
        self._answer_waiting()

    def catch_up(self) -> bool:
        """Answer requests that wait for a frame, and move one target on that lags behind.

        A target lags behind if it was selected on an earlier frame. The other targets are tracked
        as well when a new frame has arrived. Returns False if no target lags behind.
        """
        self._answer_waiting()
        target = next((t for t in self._targets if t.target_id in self._replays), None)
        if target is None:
            return False
        replay = self._replays[target.target_id]
        frames = [f for f in self._buffer.frames if f.time_s > replay.place_s]
        chosen = replay.choose(frames, self._clock())
        if chosen is None or chosen is frames[-1]:
            del self._replays[target.target_id]
        if chosen is not None:
            newest = frames[-1]
            if chosen is not newest or newest.number <= self._number:
                self._replay(chosen, target)
            if self._targets_to_track():
                self.handle(newest)
        return True

    def note_silence(self) -> None:
        """Let targets become LOST if the camera has been silent for too long."""
        waited = self._clock() - self._arrived_s
        if waited < max(_SILENCE_S, 3.0 * self._interval_s):
            return
        before = [target.state for target in self._targets]
        time_s = self._time_s + waited
        if [target.no_frame(time_s) for target in self._targets] != before:
            self.report_change()

    def _interrupt_waiting(self, reason: str) -> None:
        while self._waiting:
            text = f"{reason} while it waited for its image: ask again"
            self._waiting.popleft().answer(Outcome(SelectionCode.INTERRUPTED, text))

    def _answer_waiting(self) -> None:
        """Answer requests in order until one has to wait."""
        while self._waiting:
            request = self._waiting[0]
            in_time = self._clock() < request.deadline_s
            if in_time and arrives_soon(self._buffer.frames, request.selection):
                return
            if self._lags_behind() and not request.selection.append:
                return
            self._waiting.popleft()
            request.answer(self._select(request.selection))

    def _lags_behind(self) -> bool:
        """Tell whether a target has not seen a frame that has arrived since its selection."""
        newest_s = max((frame.time_s for frame in self._buffer.frames), default=-math.inf)
        return any(replay.place_s < newest_s for replay in self._replays.values())

    def _select(self, selection: Selection) -> Outcome:
        """Start on a buffered frame and mark the target as lagging behind."""
        try:
            self._check_ready()
            frame = find_frame(self._buffer.frames, selection, self._topic)
            try:
                image = self._decode(frame.payload)
            except ValueError as error:
                return Outcome(SelectionCode.UNREADABLE_IMAGE, str(error))
            check_selection(selection, image)
            target = self._start(selection, frame, image)
        except SelectionRefused as refusal:
            return Outcome(refusal.code, refusal.message)
        except ValueError as error:
            no_mask = selection.mask is None
            invalid = SelectionCode.INVALID_BOX if no_mask else SelectionCode.INVALID_MASK
            return Outcome(invalid, str(error))
        except Exception as error:  # whatever the model raises, the other targets go on
            self.counts.faults += 1
            text = f"the model failed on this selection: {describe_error(error)}"
            return Outcome(SelectionCode.MODEL_FAILED, text)
        if len(self._targets) == 1:
            self._replays.clear()
            self._time_s, self._arrived_s = frame.time_s, self._clock()
        replay = _Replay(frame.time_s, self._processing_s, self._clock())
        self._replays[target.target_id] = replay
        self.report_change()
        text = f"following target {target.target_id}"
        return Outcome(SelectionCode.OK, text, target.target_id, frame.stamp_ns)

    def _drop_targets(self, reason: str) -> None:
        super()._drop_targets(reason)
        self._replays.clear()
        self._interrupt_waiting(reason)

    def _targets_to_track(self) -> list[FollowedTarget]:
        return [target for target in self._targets if target.target_id not in self._replays]

    def _check_ready(self) -> None:
        """Refuse selections while nothing can be tracked."""
        if self._targets.tracker is None:
            text = "no model is loaded: configure and activate the node"
            raise SelectionRefused(SelectionCode.NOT_ACTIVE, text)
        if self._paused:
            text = "tracking is paused: call enable with data: true first"
            raise SelectionRefused(SelectionCode.PAUSED, text)


@dataclass
class _Replay:
    """How far a target has come that was selected on an earlier frame."""

    place_s: float  # time of the last frame that it has seen
    step_s: float  # seconds from one step to the next
    began_s: float  # when the replay began, by the follower's clock
    stepped_s: float | None = None  # when its last step began; None before the first

    def choose(self, frames: Sequence[Frame[T]], now_s: float) -> Frame[T] | None:
        """Choose the next frame to track, and count it as seen.

        If all ``frames``, those after `place_s`, can be tracked within half a second, none is
        skipped. Otherwise frames are skipped so that each step moves on through the recording at
        least twice as fast as the time it takes: the replay ends however slow the model is and
        however fast the camera. Returns None if there are no frames.
        """
        if not frames:
            return None
        if self.stepped_s is not None:
            self.step_s = now_s - self.stepped_s
        self.stepped_s = now_s
        interval_s = (frames[-1].time_s - self.place_s) / len(frames)
        stride = 1
        if now_s - self.began_s + len(frames) * self.step_s > _SHORT_REPLAY_S:
            stride = max(1, math.ceil(2.0 * self.step_s / max(interval_s, 1e-6)))
        chosen = frames[min(stride, len(frames)) - 1]
        self.place_s = chosen.time_s
        return chosen
