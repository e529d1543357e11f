# SPDX-License-Identifier: Apache-2.0
"""The loop that follows selected targets from frame to frame.

A `Follower` takes frames and requests, and reports what became of them. There are two ways to
drive it:

* Frame by frame, as for a video: `Follower.follow`, or `start` and `handle`.
* Beside a live camera: a `FrameBuffer` keeps the last seconds of frames, `select` starts on the
  frame that a request names, and `catch_up` moves its target on to the newest frame while the
  other targets are tracked as usual.

All methods of one follower must be called in one thread.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from tracker_ros.following.frame_report import FrameCounts, FrameReport, TargetReport
from tracker_ros.following.frames import Frame, FrameBuffer
from tracker_ros.following.selection import (
    Outcome,
    Selection,
    SelectionCode,
    SelectionRefused,
    arrives_soon,
    check_selection,
    check_selection_on_image,
    find_frame,
)
from tracker_ros.following.target_set import MAX_TARGETS, FollowedTarget, TargetSet
from tracker_ros.following.target_state import StateLimits, TargetState
from tracker_ros.tracker import Tracker, TrackResult

__all__ = ["Follower", "raise_error"]

T = TypeVar("T")

_SILENCE_S = 0.5
_SHORT_REPLAY_S = 0.5
_PATIENCE_S = 0.5


def raise_error(text: str, error: Exception | None) -> None:
    """Raise the error of a frame; this is what a follower does unless told otherwise."""
    if error is not None:
        raise error


@dataclass
class _Progress:
    """The follower's place in the stream of frames; times by the follower's clock."""

    arrived_s: float
    number: int = 0
    time_s: float = 0.0
    interval_s: float = 0.0
    processing_s: float = 0.0


@dataclass(frozen=True)
class _Request:
    """A selection that has not been answered yet."""

    selection: Selection
    answer: Callable[[Outcome], None]
    deadline_s: float


class Follower(Generic[T]):
    """Follows targets through frames and reports each frame.

    Args:
        decode: Turns a frame's payload into RGB uint8 (H, W, 3); raises ValueError if it cannot.
        targets: The targets and the model.
        buffer: The last frames, for `select` and `catch_up`; another thread may add to it.
        report: Called with a report of every frame, before the model is updated, and of every
            change.
        complain: Called with a text and the error when a frame could not be decoded or tracked,
            and with an empty text and None when a frame was tracked. It may raise the error.
        wants_image: Whether frames should be decoded even while nothing is tracked.
        topic: Name of the image topic, for messages.
        clock: Returns seconds that only grow.

    Attributes:
        counts: Numbers of frames.
        explain: Whether trackers should return a token mask; see `Tracker.explain`.
        tracking_seconds: Time spent in `Tracker.track` and `Tracker.update_model`.
    """

    def __init__(
        self,
        decode: Callable[[T], np.ndarray],
        targets: TargetSet,
        *,
        buffer: FrameBuffer[T] | None = None,
        report: Callable[[FrameReport[T]], None] = lambda report: None,
        complain: Callable[[str, Exception | None], None] = raise_error,
        wants_image: Callable[[], bool] = lambda: False,
        topic: str = "the source",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._decode = decode
        self._targets = targets
        self._buffer = FrameBuffer[T](0.0, 0) if buffer is None else buffer
        self._report = report
        self._complain = complain
        self._wants_image = wants_image
        self._topic = topic
        self._clock = clock
        self._paused = False
        self._progress = _Progress(clock())
        self._replays: dict[str, _Replay] = {}
        self._waiting: deque[_Request] = deque()
        self._reported: tuple[str, ...] = ()
        self._counted = self._buffer.arrivals
        self.counts = FrameCounts()
        self.explain = targets.tracker is not None and targets.tracker.explain
        self.tracking_seconds = 0.0

    def load(self, make: Callable[[], Tracker]) -> None:
        """Make the model and warm it up; the state is LOADING until `loaded`."""
        self._unload(TargetState.LOADING)
        self.report_change()
        tracker = make()
        tracker.warm_up()
        self._targets.tracker = tracker

    def loaded(self) -> None:
        """End the state LOADING; call it when loading has finished or failed."""
        self._targets.state = TargetState.IDLE
        self.report_change()

    def runtime_info(self) -> dict[str, str]:
        """Return the back end, device and precision in use; empty without a model."""
        tracker = self._targets.tracker
        return {} if tracker is None else dict(tracker.runtime_info)

    def reset(self) -> None:
        """Forget targets, pause, counters and place in the stream; keep the model."""
        self._drop_targets("tracking has been reset")
        self._paused = False
        self._progress = _Progress(self._clock())
        self._counted = self._buffer.arrivals
        self.counts = FrameCounts()
        self.report_change()

    def unload(self) -> None:
        """Drop the targets and the model."""
        self._unload(TargetState.IDLE)

    def set_limits(self, limits: StateLimits) -> None:
        """Change the thresholds of the targets' states."""
        self._targets.set_limits(limits)

    def set_buffer_limits(self, max_seconds: float, max_bytes: int) -> None:
        """Change the bounds of the buffer; see `FrameBuffer.set_limits`."""
        self._buffer.set_limits(max_seconds, max_bytes)

    def follow(self, selection: Selection, frames: Iterable[Frame[T]]) -> Iterator[FrameReport[T]]:
        """Start on the first frame and follow the target through the others.

        Yields:
            A report of each frame.

        Raises:
            ValueError: As for `start`.
            RuntimeError: As for `start`.
        """
        for place, frame in enumerate(frames):
            report = self.handle(frame) if place else self.start(selection, frame)
            if report is not None:
                yield report

    def start(self, selection: Selection, frame: Frame[T]) -> FrameReport[T]:
        """Start following a target on a given frame.

        The selection's stamp and ``frame_id`` are not used, and its box or mask is checked by the
        tracker alone.

        Returns:
            A report whose result is the selected box, with score 1.

        Raises:
            SelectionRefused: Too many targets are followed already.
            ValueError: The tracker cannot start there; see `Tracker.initialize`.
            RuntimeError: There is no model, or it failed.
        """
        image = self._decode(frame.payload)
        box = selection.bounds
        target = self._start(selection, frame, image)
        result = TrackResult(box, 1.0, None, box, selection.mask)
        return self._publish(frame, image, {target.target_id: result})

    def select(self, selection: Selection, answer: Callable[[Outcome], None]) -> None:
        """Start following a target on the buffered frame that the selection names.

        If its stamp is slightly ahead of the newest frame, the request waits for that frame; it is
        answered by a later `catch_up`. Requests that add a target wait behind it, any other one
        replaces those that wait. Present targets are kept if the request is refused.

        Args:
            selection: The request.
            answer: Called once with the outcome, now or later.
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

    def clear(self) -> Outcome:
        """Stop following all targets."""
        removed = self._targets.ids
        self._drop_targets("all targets have been cleared")
        self.report_change()
        if not removed:
            return Outcome(SelectionCode.OK, "there was no target to clear")
        return Outcome(
            SelectionCode.OK, f"cleared target{'s' * (len(removed) > 1)} " + ", ".join(removed)
        )

    def remove(self, target_id: str) -> Outcome:
        """Stop following one target; refused if there is none with this id."""
        if self._targets.remove(target_id):
            self._replays.pop(target_id, None)
            self.report_change()
            return Outcome(SelectionCode.OK, f"target {target_id} removed", target_id)
        known = ", ".join(self._targets.ids) or "none"
        return Outcome(
            SelectionCode.UNKNOWN_TARGET,
            f"there is no target '{target_id}'; followed now: {known}",
        )

    def enable(self, enabled: bool) -> Outcome:
        """Pause or resume tracking; targets and model are kept."""
        if enabled == self._paused:
            self._paused = not enabled
            self._replays.clear()
            for target in self._targets:
                if enabled:
                    target.resume()
                else:
                    target.pause()
            self.report_change()
        text = "tracking is enabled" if enabled else "tracking is paused, targets are kept"
        return Outcome(SelectionCode.OK, text)

    def catch_up(self) -> bool:
        """Answer requests that wait for a frame, and move one target on that lags behind.

        A target lags behind if it was selected on an earlier frame. The other targets are tracked
        as well when a new frame has arrived.

        Returns:
            False if no target lags behind.
        """
        self._answer_waiting()
        behind = [target for target in self._targets if target.target_id in self._replays]
        if not behind:
            return False
        begin = self._clock()
        target = behind[0]
        replay = self._replays[target.target_id]
        frames = self._buffer.after(replay.place_ns)
        chosen = replay.choose(frames, begin)
        if chosen is None or chosen is frames[-1]:
            del self._replays[target.target_id]
        if chosen is not None:
            newest = frames[-1]
            if chosen is not newest or newest.number <= self._progress.number:
                self._track(chosen, [target], replayed=True)
            if self._up_to_date():
                self.handle(newest)
        replay.step_s = self._clock() - begin
        return True

    def handle(self, frame: Frame[T]) -> FrameReport[T] | None:
        """Track all targets in the newest frame.

        Returns:
            The report of this frame; None if a replay has tracked it already.
        """
        progress, now = self._progress, self._clock()
        if frame.number <= progress.number:
            return None
        progress.number, progress.time_s = frame.number, frame.time_s
        progress.interval_s = now - progress.arrived_s
        progress.arrived_s = now
        targets = [] if self._paused else self._up_to_date()
        if targets:
            return self._track(frame, targets)
        return self._show(frame)

    def note_silence(self) -> None:
        """Let targets become LOST if the camera has been silent for too long."""
        waited = self._clock() - self._progress.arrived_s
        if waited < max(_SILENCE_S, 3.0 * self._progress.interval_s):
            return
        before = [target.state for target in self._targets]
        time_s = self._progress.time_s + waited
        if [target.no_frame(time_s) for target in self._targets] != before:
            self.report_change()

    def report_change(self) -> None:
        """Report the present states without a frame."""
        self._publish(None, None, {})

    def _unload(self, state: TargetState) -> None:
        self._drop_targets("the model has been unloaded")
        self._targets.unload(state)

    def _drop_targets(self, reason: str) -> None:
        """Forget all targets and interrupt the requests for further ones."""
        self._targets.clear()
        self._replays.clear()
        self._interrupt_waiting(reason)

    def _interrupt_waiting(self, reason: str) -> None:
        while self._waiting:
            text = f"{reason} while it waited for its image: ask again"
            self._waiting.popleft().answer(Outcome(SelectionCode.INTERRUPTED, text))

    def _answer_waiting(self) -> None:
        """Answer requests in order until one has to wait for its frame."""
        while self._waiting:
            request = self._waiting[0]
            in_time = self._clock() < request.deadline_s
            if in_time and arrives_soon(self._buffer, request.selection):
                return
            self._waiting.popleft()
            request.answer(self._select(request.selection))

    def _select(self, selection: Selection) -> Outcome:
        """Start on a buffered frame and mark the target as lagging behind."""
        refused = (
            SelectionCode.INVALID_BOX if selection.mask is None else (SelectionCode.INVALID_MASK)
        )
        try:
            self._check_ready()
            frame = find_frame(self._buffer, selection, self._topic)
            try:
                image = self._decode(frame.payload)
            except ValueError as error:
                return Outcome(SelectionCode.UNREADABLE_IMAGE, str(error))
            check_selection_on_image(selection, *image.shape[:2])
            target = self._start(selection, frame, image)
        except SelectionRefused as refusal:
            return Outcome(refusal.code, refusal.message)
        except ValueError as error:
            return Outcome(refused, str(error))
        except Exception as error:  # whatever the model raises, the other targets go on
            self.counts.faults += 1
            text = f"the model failed on this selection: {error or repr(error)}"
            return Outcome(SelectionCode.MODEL_FAILED, text)
        if len(self._targets) == 1:
            self._replays.clear()
        self._replays[target.target_id] = _Replay(
            frame.stamp_ns, self._progress.processing_s, self._clock()
        )
        self.report_change()
        text = f"following target {target.target_id}"
        return Outcome(SelectionCode.OK, text, target.target_id, frame.stamp_ns)

    def _check_ready(self) -> None:
        """Refuse selections while nothing can be tracked."""
        if self._targets.tracker is None:
            loading = self._targets.state is TargetState.LOADING
            raise SelectionRefused(
                SelectionCode.LOADING if loading else SelectionCode.NOT_ACTIVE,
                "the model is still loading: ask again"
                if loading
                else "the model is not loaded: configure and activate the node",
            )
        if self._paused:
            raise SelectionRefused(
                SelectionCode.PAUSED, "tracking is paused: call enable with data: true first"
            )

    def _start(self, selection: Selection, frame: Frame[T], image: np.ndarray) -> FollowedTarget:
        """Initialise a tracker on a frame; nothing has changed if that raises."""

        def initialize(tracker: Tracker) -> None:
            if selection.mask is None:
                tracker.initialize(image, selection.bounds)
            else:
                tracker.initialize_mask(image, selection.mask)

        target = self._targets.select(initialize, frame.time_s, selection.label, selection.append)
        if len(self._targets) == 1:
            self._progress.number, self._progress.time_s = frame.number, frame.time_s
            self._progress.arrived_s = self._clock()
        self._count(frame, "tracked")
        return target

    def _up_to_date(self) -> list[FollowedTarget]:
        """Return the targets that do not lag behind."""
        return [target for target in self._targets if target.target_id not in self._replays]

    def _track(
        self, frame: Frame[T], targets: Sequence[FollowedTarget], replayed: bool = False
    ) -> FrameReport[T] | None:
        """Decode, track and judge; report and update the model unless the frame is replayed."""
        begin = self._clock()
        try:
            image = self._decode(frame.payload)
        except ValueError as error:
            return self._reject(frame, error, targets)
        for target in targets:
            target.tracker.explain = self.explain
        started = self._clock()
        outcomes = self._targets.track(image, targets)
        self.tracking_seconds += self._clock() - started
        results: dict[str, TrackResult] = {}
        failures: dict[str, Exception] = {}
        for target, outcome in zip(targets, outcomes, strict=True):
            if isinstance(outcome, TrackResult):
                target.update(outcome.score, frame.time_s, outcome.verdict)
                results[target.target_id] = outcome
            else:
                target.no_frame(frame.time_s)
                failures[target.target_id] = outcome
        self._report_failures(image, failures)
        self._progress.processing_s = self._clock() - begin
        self._count(frame, "tracked" if results else "rejected")
        if replayed:
            return None
        report = self._publish(frame, image, results, self._progress.processing_s)
        for target in targets:
            if target.target_id in results:
                self._update_model(target.tracker)
        self._progress.processing_s = self._clock() - begin
        return report

    def _report_failures(self, image: np.ndarray, failures: Mapping[str, Exception]) -> None:
        """Complain about the targets that could not be tracked, or say that all is well."""
        if not failures:
            self._complain("", None)
            return
        self.counts.faults += len(failures)
        causes = "; ".join(f"target {name}: {error!r}" for name, error in failures.items())
        size = f"{image.shape[1]}x{image.shape[0]}"
        text = f"tracking a {size} frame failed, {causes}"
        self._complain(text, next(iter(failures.values())))

    def _update_model(self, tracker: Tracker) -> None:
        """Let a tracker update its model of the target now that its result is out."""
        started = self._clock()
        try:
            tracker.update_model()
        except Exception as error:  # as in tracking: the next frame gets its chance
            self.counts.faults += 1
            self._complain(f"updating the model failed: {error!r}", error)
        self.tracking_seconds += self._clock() - started

    def _show(self, frame: Frame[T]) -> FrameReport[T]:
        """Report a frame on which nothing is tracked; decode it only on request."""
        image = None
        if self._wants_image():
            try:
                image = self._decode(frame.payload)
            except ValueError as error:
                return self._reject(frame, error, ())
        self._count(frame, "idle")
        return self._publish(frame, image, {})

    def _reject(
        self, frame: Frame[T], error: ValueError, targets: Sequence[FollowedTarget]
    ) -> FrameReport[T]:
        """Count and report a frame that cannot be decoded; no target was seen in it."""
        self._count(frame, "rejected")
        self._complain(str(error), error)
        for target in targets:
            target.no_frame(frame.time_s)
        return self._publish(frame, None, {})

    def _count(self, frame: Frame[T], fate: str) -> None:
        """Count a frame, and those that it replaced; replayed frames were counted before."""
        arrived = frame.number - self._counted
        if arrived <= 0:
            return
        self._counted = frame.number
        self.counts.received += arrived
        self.counts.dropped += arrived - 1
        setattr(self.counts, fate, getattr(self.counts, fate) + 1)

    def _publish(
        self,
        frame: Frame[T] | None,
        image: np.ndarray | None,
        results: Mapping[str, TrackResult],
        processing_s: float = 0.0,
    ) -> FrameReport[T]:
        """Report a frame or a change, and return the report.

        Args:
            frame: The frame; None for a change.
            image: Its pixels, if it was decoded.
            results: Results of this frame by the targets' ids.
            processing_s: Seconds that they took.
        """
        targets = [
            TargetReport(
                target.state,
                target.target_id,
                target.label,
                target.score,
                target.seconds_since_seen,
                results.get(target.target_id),
            )
            for target in self._targets
        ]
        ids = self._targets.ids
        gone = tuple(target_id for target_id in self._reported if target_id not in ids)
        self._reported = ids
        report = FrameReport(
            frame,
            image,
            tuple(targets or [TargetReport(self._targets.state)]),
            gone,
            processing_s,
            replace(self.counts),
        )
        self._report(report)
        return report


@dataclass
class _Replay:
    """How far a target has come that was selected on an earlier frame.

    Attributes:
        place_ns: Stamp of the last frame that it has seen.
        step_s: Seconds that a step takes.
        began_s: When the replay began, by the follower's clock.
    """

    place_ns: int
    step_s: float
    began_s: float

    def choose(self, frames: Sequence[Frame[T]], now_s: float) -> Frame[T] | None:
        """Choose the next frame to track, and count it as seen.

        If all frames can be tracked within half a second, none is skipped. Otherwise frames are
        skipped so that each step moves on through the recording at least twice as fast as the
        time it takes: the replay ends however slow the model is and however fast the camera.

        Args:
            frames: Those that came after `place_ns`.
            now_s: The time now, by the follower's clock.

        Returns:
            One of them, the last one when the replay ends with it; None if there are none.
        """
        if not frames:
            return None
        interval_s = (frames[-1].stamp_ns - self.place_ns) / len(frames) / 1e9
        stride = 1
        if now_s - self.began_s + len(frames) * self.step_s > _SHORT_REPLAY_S:
            stride = max(1, math.ceil(2.0 * self.step_s / max(interval_s, 1e-6)))
        chosen = frames[min(stride, len(frames)) - 1]
        self.place_ns = chosen.stamp_ns
        return chosen
