# SPDX-License-Identifier: Apache-2.0
"""Follows the selected target from frame to frame; all of it runs in the worker's thread."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from tracker_ros.frame_buffer import FrameBuffer, StampedFrame
from tracker_ros.nodes.images import rgb_from_image
from tracker_ros.nodes.selection import (
    Selection,
    SelectionOutcome,
    SelectionRefused,
    box_on_image,
    find_frame,
    mask_on_image,
)
from tracker_ros.target_state import TargetState, TargetStateMachine
from tracker_ros.tracker import Tracker, TrackResult

__all__ = ["Follower", "FrameCounts", "FrameReport"]

_SILENCE_S = 0.5
_SHORT_REPLAY_S = 0.5


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
class FrameReport:
    """What is known after one frame, or after a change without one.

    Attributes:
        header: The image's own header; None for a change without a frame.
        image: (H, W, 3) uint8 RGB, where the frame was decoded.
        result: What the tracker said, where the frame was tracked and not a replayed one.
        state: State of the target.
        target_id: Its id, empty without a target.
        label: Its label.
        score: Its score.
        seconds_since_seen: Since the target was last seen.
        processing_time: Seconds spent on decoding and tracking this frame.
        counts: The counters at this moment.
        meeting_template: See ``Tracker.meeting_template``; to be asked before the next frame.
    """

    header: Header | None
    image: np.ndarray | None
    result: TrackResult | None
    state: TargetState
    target_id: str
    label: str
    score: float
    seconds_since_seen: float
    processing_time: float
    counts: FrameCounts
    meeting_template: Callable[[], np.ndarray | None]


@dataclass
class _Progress:
    """Where in the stream of frames the follower is."""

    number: int = 0
    time_s: float = 0.0
    arrived: float = field(default_factory=time.monotonic)
    interval_s: float = 0.0
    processing_s: float = 0.0
    replay_from_ns: int | None = None
    replay_began: float = 0.0


class Follower:
    """Owns the model and the state of the target.

    Args:
        buffer: The last frames, filled by the image callback.
        machine: The target's state.
        report: Called with a report for every frame and every change.
        complain: Called with a text when a frame could not be read or tracked, and with an empty
            one when frames are well again.
        wants_image: Whether somebody wants to see frames even while nothing is tracked.
        topic: Name of the image topic, for messages.
    """

    def __init__(
        self,
        buffer: FrameBuffer[Image],
        machine: TargetStateMachine,
        report: Callable[[FrameReport], None],
        complain: Callable[[str], None],
        wants_image: Callable[[], bool],
        topic: str,
    ) -> None:
        self._buffer = buffer
        self._machine = machine
        self._report = report
        self._complain = complain
        self._wants_image = wants_image
        self._topic = topic
        self._tracker: Tracker | None = None
        self._paused = False
        self._progress = _Progress()
        self._counted = buffer.arrivals
        self.counts = FrameCounts()

    @property
    def state(self) -> TargetState:
        """State of the target."""
        return self._machine.state

    def load(self, make: Callable[[], Tracker]) -> None:
        """Make the model and warm it up; ``loaded`` ends the state LOADING."""
        self._machine.loading()
        self.report_change()
        self._tracker = None
        tracker = make()
        tracker.warm_up()
        self._tracker = tracker

    def loaded(self) -> None:
        """Loading has ended, well or not."""
        self._machine.loaded()
        self.report_change()

    def model_facts(self) -> dict[str, str]:
        """What computes: back end, device and precision in use."""
        return dict(self._tracker.runs_on) if self._tracker is not None else {}

    def reset(self) -> None:
        """Forget target, pause, counters and place in the stream; the model stays."""
        self._machine.clear()
        self._paused = False
        self._progress = _Progress()
        self._counted = self._buffer.arrivals
        self.counts = FrameCounts()
        self.report_change()

    def unload(self) -> None:
        """Let go of the model."""
        self._tracker = None
        self._machine.clear()

    def select(self, selection: Selection) -> SelectionOutcome:
        """Start on the frame on which the box was drawn.

        A selection that is refused leaves the old target as it was. Where the model itself fails
        on it, nothing is followed any more: what became of the old target is not known.
        """
        try:
            if self._tracker is None:
                raise SelectionRefused("the model is not loaded: configure and activate the node")
            if self._paused:
                raise SelectionRefused("tracking is paused: call enable with data: true first")
            frame = find_frame(self._buffer, selection, self._topic)
            image = rgb_from_image(frame.frame)
            height, width = image.shape[:2]
            if selection.mask is None:
                box = box_on_image(selection.box, width, height)
                self._tracker.initialize(image, box)
            else:
                mask = mask_on_image(selection.mask, width, height)
                self._tracker.initialize_mask(image, mask)
        except ValueError as error:
            return SelectionOutcome(False, str(error))
        except Exception as error:  # whatever the model throws, the node goes on without target
            self.counts.faults += 1
            old = self.clear()
            gone = f"; target {old} is gone" if old else ""
            return SelectionOutcome(False, f"the model failed on it: {error or repr(error)}{gone}")
        self._count(frame, "tracked")
        self._progress = _Progress(
            number=frame.number,
            time_s=self._time_of(frame),
            processing_s=self._progress.processing_s,
            replay_from_ns=frame.stamp_ns,
            replay_began=time.monotonic(),
        )
        target_id = self._machine.select(self._progress.time_s, selection.label)
        self.report_change()
        return SelectionOutcome(True, f"following target {target_id}", target_id, frame.stamp_ns)

    def clear(self) -> str:
        """Forget the target; returns the id it had, or an empty string."""
        old = self._machine.target_id
        self._machine.clear()
        self._progress.replay_from_ns = None
        self.report_change()
        return old

    def enable(self, enabled: bool) -> None:
        """Pause or go on; the target and the model are kept."""
        if enabled == (not self._paused):
            return
        self._paused = not enabled
        if enabled:
            self._machine.resume()
        else:
            self._machine.pause()
            self._progress.replay_from_ns = None
        self.report_change()

    def catch_up(self) -> bool:
        """Track one buffered frame after the one that was selected on.

        If all of them can be tracked within half a second, none is left out. Else frames are
        left out so that each step moves on through the recording at least twice as fast as the
        time it takes: the replay ends however slow the model is and however fast the camera.

        Returns:
            Whether there was one; False when the newest frame has been reached.
        """
        place = self._progress.replay_from_ns
        if place is None:
            return False
        frames = self._buffer.after(place)
        if not frames:
            self._progress.replay_from_ns = None
            return False
        interval_s = (frames[-1].stamp_ns - place) / len(frames) / 1e9
        step_s = self._progress.processing_s
        replayed_s = time.monotonic() - self._progress.replay_began
        stride = 1
        if replayed_s + len(frames) * step_s > _SHORT_REPLAY_S:
            stride = max(1, math.ceil(2.0 * step_s / max(interval_s, 1e-6)))
        chosen = frames[min(stride, len(frames)) - 1]
        self._progress.replay_from_ns = chosen.stamp_ns
        if chosen is frames[-1]:
            self._progress.replay_from_ns = None
            self.process(chosen)
        else:
            self._track(chosen, replayed=True)
        return True

    def process(self, frame: StampedFrame[Image]) -> None:
        """Take in the newest frame."""
        if frame.number <= self._progress.number:
            return  # the replay was here already
        if self._machine.has_target and not self._paused:
            self._track(frame, replayed=False)
        else:
            self._show(frame)

    def no_frame(self) -> None:
        """Nothing waits in the mailbox: if the camera is silent, the target may be overdue."""
        waited = time.monotonic() - self._progress.arrived
        if waited < max(_SILENCE_S, 3.0 * self._progress.interval_s):
            return
        before = self._machine.state
        if self._machine.no_frame(self._progress.time_s + waited) is not before:
            self.report_change()

    def report_change(self) -> None:
        """Report the state as it is, without a frame."""
        self._report(self._make_report(None))

    def _track(self, frame: StampedFrame[Image], replayed: bool) -> None:
        """Decode, track, judge, report."""
        self._step_to(frame)
        tracker = self._tracker
        if tracker is None:
            return
        begin = time.monotonic()
        try:
            image = rgb_from_image(frame.frame)
        except ValueError as error:
            self._reject(frame, str(error))
            return
        try:
            result = tracker.track(image)
        except Exception as error:  # whatever the model throws, the next frame gets its chance
            self.counts.faults += 1
            text = f"tracking a {image.shape[1]}x{image.shape[0]} frame failed: {error!r}"
            self._reject(frame, text)
            return
        self._complain("")
        self._machine.update(result.score, self._progress.time_s, result.state)
        self._progress.processing_s = time.monotonic() - begin
        self._count(frame, "tracked")
        if replayed:
            return
        self._report(self._make_report(frame.frame.header, image, result))
        self._learn(tracker)
        self._progress.processing_s = time.monotonic() - begin

    def _meeting_template(self) -> np.ndarray | None:
        return None if self._tracker is None else self._tracker.meeting_template()

    def _learn(self, tracker: Tracker) -> None:
        """Let the tracker learn from the frame now that its result is out."""
        try:
            tracker.learn()
        except Exception as error:  # as in tracking: the next frame gets its chance
            self.counts.faults += 1
            self._complain(f"learning from a frame failed: {error!r}")

    def _show(self, frame: StampedFrame[Image]) -> None:
        """Pass a frame on while there is nothing to track; decode it if somebody looks."""
        self._step_to(frame)
        image = None
        if self._wants_image():
            try:
                image = rgb_from_image(frame.frame)
            except ValueError as error:
                self._reject(frame, str(error))
                return
        self._count(frame, "idle")
        self._report(self._make_report(frame.frame.header, image))

    def _reject(self, frame: StampedFrame[Image], text: str) -> None:
        """Count and report a frame that gave nothing; the target was not seen on it."""
        self._count(frame, "rejected")
        self._complain(text)
        self._machine.no_frame(self._progress.time_s)
        self._report(self._make_report(frame.frame.header))

    def _count(self, frame: StampedFrame[Image], fate: str) -> None:
        """Count a frame, and those that it replaced; a replayed one was counted at its time."""
        arrived = frame.number - self._counted
        if arrived <= 0:
            return
        self._counted = frame.number
        self.counts.received += arrived
        self.counts.dropped += arrived - 1
        setattr(self.counts, fate, getattr(self.counts, fate) + 1)

    def _step_to(self, frame: StampedFrame[Image]) -> None:
        self._progress.number = frame.number
        self._progress.time_s = self._time_of(frame)
        now = time.monotonic()
        self._progress.interval_s = now - self._progress.arrived
        self._progress.arrived = now

    def _time_of(self, frame: StampedFrame[Image]) -> float:
        """Its stamp, or the time now where the camera gives none."""
        return frame.stamp_ns / 1e9 if frame.stamp_ns else time.monotonic()

    def _make_report(
        self,
        header: Header | None,
        image: np.ndarray | None = None,
        result: TrackResult | None = None,
    ) -> FrameReport:
        machine = self._machine
        return FrameReport(
            header=header,
            image=image,
            result=result,
            state=machine.state,
            target_id=machine.target_id,
            label=machine.label,
            score=machine.score,
            seconds_since_seen=machine.seconds_since_seen,
            processing_time=self._progress.processing_s if result is not None else 0.0,
            counts=FrameCounts(**vars(self.counts)),
            meeting_template=self._meeting_template,
        )
