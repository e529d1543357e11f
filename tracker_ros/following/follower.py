# SPDX-License-Identifier: Apache-2.0
"""Follows the selected targets from frame to frame; all of it runs in the worker's thread.

Catching up from the frame that was selected on to the newest one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from tracker_ros.following.frame_report import FrameCounts, FrameReport, TargetReport
from tracker_ros.following.frames import FrameBuffer, StampedFrame
from tracker_ros.following.selection import (
    Selection,
    SelectionOutcome,
    SelectionRefused,
    box_on_image,
    find_frame,
    mask_on_image,
)
from tracker_ros.following.target_set import FollowedTarget, TargetSet
from tracker_ros.nodes.messages import rgb_from_image
from tracker_ros.tracker import Tracker, TrackResult

__all__ = ["Follower", "Replay"]

_SILENCE_S = 0.5


@dataclass
class _Progress:
    """Where in the stream of frames the follower is."""

    number: int = 0
    time_s: float = 0.0
    arrived: float = field(default_factory=time.monotonic)
    interval_s: float = 0.0
    processing_s: float = 0.0


class Follower:
    """Takes frames and requests, moves the targets on, reports.

    Args:
        buffer: The last frames, filled by the image callback.
        targets: The targets and the model.
        report: Called with a report for every frame and every change.
        complain: Called with a text when a frame could not be read or tracked, and with an empty
            one when frames are well again.
        wants_image: Whether somebody wants to see frames even while nothing is tracked.
        topic: Name of the image topic, for messages.

    Attributes:
        explain: Ask trackers for the token mask of every result, see ``Tracker.explain``.
    """

    def __init__(
        self,
        buffer: FrameBuffer[Image],
        targets: TargetSet,
        report: Callable[[FrameReport], None],
        complain: Callable[[str], None],
        wants_image: Callable[[], bool],
        topic: str,
    ) -> None:
        self._buffer = buffer
        self._targets = targets
        self._report = report
        self._complain = complain
        self._wants_image = wants_image
        self._topic = topic
        self._paused = False
        self._progress = _Progress()
        self._replays: dict[str, Replay] = {}
        self._known: tuple[str, ...] = ()
        self._counted = buffer.arrivals
        self.counts = FrameCounts()
        self.explain = False

    def load(self, make: Callable[[], Tracker]) -> None:
        """Make the model and warm it up; ``loaded`` ends the state LOADING."""
        self._targets.loading()
        self.report_change()
        tracker = make()
        tracker.warm_up()
        self._targets.tracker = tracker

    def loaded(self) -> None:
        """Loading has ended, well or not."""
        self._targets.loaded()
        self.report_change()

    def model_facts(self) -> dict[str, str]:
        """What computes: back end, device and precision in use."""
        tracker = self._targets.tracker
        return {} if tracker is None else dict(tracker.runtime_info)

    def reset(self) -> None:
        """Forget targets, pause, counters and place in the stream; the model stays."""
        self._targets.clear()
        self._replays.clear()
        self._paused = False
        self._progress = _Progress()
        self._counted = self._buffer.arrivals
        self.counts = FrameCounts()
        self.report_change()

    def unload(self) -> None:
        """Let go of the model."""
        self._targets.unload()

    def select(self, selection: Selection) -> SelectionOutcome:
        """Start on the frame on which the box was drawn; other targets stay if that fails."""
        try:
            if self._targets.tracker is None:
                raise SelectionRefused("the model is not loaded: configure and activate the node")
            if self._paused:
                raise SelectionRefused("tracking is paused: call enable with data: true first")
            frame = find_frame(self._buffer, selection, self._topic)
            start = _start_on(selection, rgb_from_image(frame.frame))
            time_s = self._time_of(frame)
            target = self._targets.select(start, time_s, selection.label, selection.append)
        except ValueError as error:
            return SelectionOutcome(False, str(error))
        except Exception as error:  # whatever the model throws, the node goes on
            self.counts.faults += 1
            return SelectionOutcome(False, f"the model failed on it: {error or repr(error)}")
        if len(self._targets) == 1:
            self._replays.clear()
            self._progress.number, self._progress.time_s = frame.number, time_s
            self._progress.arrived = time.monotonic()
        self._replays[target.target_id] = Replay(frame.stamp_ns, self._progress.processing_s)
        self._count(frame, "tracked")
        self.report_change()
        text = f"following target {target.target_id}"
        return SelectionOutcome(True, text, target.target_id, frame.stamp_ns)

    def clear(self) -> list[str]:
        """Forget all targets; returns their ids."""
        gone = [target.target_id for target in self._targets.targets]
        self._targets.clear()
        self._replays.clear()
        self.report_change()
        return gone

    def remove(self, target_id: str) -> tuple[bool, str]:
        """Forget one target; whether there was such a one, and a text that says so."""
        if self._targets.remove(target_id):
            self._replays.pop(target_id, None)
            self.report_change()
            return True, f"target {target_id} removed"
        there = ", ".join(target.target_id for target in self._targets.targets) or "none"
        return False, f"there is no target '{target_id}'; followed now: {there}"

    def enable(self, enabled: bool) -> None:
        """Pause or go on; the targets and the model are kept."""
        if enabled == (not self._paused):
            return
        self._paused = not enabled
        self._replays.clear()
        for target in self._targets.targets:
            if enabled:
                target.machine.resume()
            else:
                target.machine.pause()
        self.report_change()

    def catch_up(self) -> bool:
        """Move one target that was selected on an earlier frame on, and the others if it is time.

        Returns:
            Whether there was one; False when all have come to the newest frame.
        """
        behind = [t for t in self._targets.targets if t.target_id in self._replays]
        if not behind:
            return False
        begin = time.monotonic()
        target = behind[0]
        replay = self._replays[target.target_id]
        frames = self._buffer.after(replay.place_ns)
        chosen = replay.choose(frames)
        if chosen is None or chosen is frames[-1]:
            del self._replays[target.target_id]
        if chosen is not None:
            newest = frames[-1]
            if chosen is not newest or newest.number <= self._progress.number:
                self._track(chosen, [target], replayed=True)
            if self._up_to_date():
                self.process(newest)
        replay.step_s = time.monotonic() - begin
        return True

    def process(self, frame: StampedFrame[Image]) -> None:
        """Take in the newest frame."""
        if frame.number <= self._progress.number:
            return  # a replay was here already
        now = time.monotonic()
        self._progress.number = frame.number
        self._progress.time_s = self._time_of(frame)
        self._progress.interval_s = now - self._progress.arrived
        self._progress.arrived = now
        targets = [] if self._paused else self._up_to_date()
        if targets:
            self._track(frame, targets, replayed=False)
        else:
            self._show(frame)

    def no_frame(self) -> None:
        """Nothing waits in the mailbox: if the camera is silent, targets may be overdue."""
        waited = time.monotonic() - self._progress.arrived
        if waited < max(_SILENCE_S, 3.0 * self._progress.interval_s):
            return
        before = [machine.state for machine in self._targets.machines]
        time_s = self._progress.time_s + waited
        if [machine.no_frame(time_s) for machine in self._targets.machines] != before:
            self.report_change()

    def report_change(self) -> None:
        """Report the states as they are, without a frame."""
        self._tell(None, None, {}, 0.0)

    def _up_to_date(self) -> list[FollowedTarget]:
        """The targets that are not being replayed."""
        return [t for t in self._targets.targets if t.target_id not in self._replays]

    def _track(
        self, frame: StampedFrame[Image], targets: Sequence[FollowedTarget], replayed: bool
    ) -> None:
        """Decode, track, judge; report and learn unless it is a replayed frame."""
        begin, time_s = time.monotonic(), self._time_of(frame)
        try:
            image = rgb_from_image(frame.frame)
        except ValueError as error:
            self._reject(frame, str(error), targets)
            return
        results: dict[str, TrackResult] = {}
        for target in targets:
            target.tracker.explain = self.explain
        complaints = []
        for target, outcome in zip(targets, self._targets.track(image, targets), strict=True):
            if isinstance(outcome, TrackResult):
                target.machine.update(outcome.score, time_s, outcome.verdict)
                results[target.target_id] = outcome
            else:
                target.machine.no_frame(time_s)
                self.counts.faults += 1
                complaints.append(f"target {target.target_id}: {outcome!r}")
        if complaints:
            size = f"{image.shape[1]}x{image.shape[0]}"
            self._complain(f"tracking a {size} frame failed, {'; '.join(complaints)}")
        else:
            self._complain("")
        self._progress.processing_s = time.monotonic() - begin
        self._count(frame, "tracked" if results else "rejected")
        if replayed:
            return
        self._tell(frame.frame.header, image, results, self._progress.processing_s)
        for target in targets:
            if target.target_id in results:
                self._learn(target.tracker)
        self._progress.processing_s = time.monotonic() - begin

    def _learn(self, tracker: Tracker) -> None:
        """Let the tracker learn from the frame now that its result is out."""
        try:
            tracker.update_model()
        except Exception as error:  # as in tracking: the next frame gets its chance
            self.counts.faults += 1
            self._complain(f"learning from a frame failed: {error!r}")

    def _show(self, frame: StampedFrame[Image]) -> None:
        """Pass a frame on while there is nothing to track; decode it if somebody looks."""
        image = None
        if self._wants_image():
            try:
                image = rgb_from_image(frame.frame)
            except ValueError as error:
                self._reject(frame, str(error), ())
                return
        self._count(frame, "idle")
        self._tell(frame.frame.header, image, {}, 0.0)

    def _reject(
        self, frame: StampedFrame[Image], text: str, targets: Sequence[FollowedTarget]
    ) -> None:
        """Count and report a frame that cannot be read; no target was seen on it."""
        self._count(frame, "rejected")
        self._complain(text)
        for target in targets:
            target.machine.no_frame(self._time_of(frame))
        self._tell(frame.frame.header, None, {}, 0.0)

    def _count(self, frame: StampedFrame[Image], fate: str) -> None:
        """Count a frame, and those that it replaced; a replayed one was counted at its time."""
        arrived = frame.number - self._counted
        if arrived <= 0:
            return
        self._counted = frame.number
        self.counts.received += arrived
        self.counts.dropped += arrived - 1
        setattr(self.counts, fate, getattr(self.counts, fate) + 1)

    def _time_of(self, frame: StampedFrame[Image]) -> float:
        """Its stamp, or the time now where the camera gives none."""
        return frame.stamp_ns / 1e9 if frame.stamp_ns else time.monotonic()

    def _tell(
        self,
        header: Header | None,
        image: np.ndarray | None,
        results: Mapping[str, TrackResult],
        processing_s: float,
    ) -> None:
        """Report a frame or a change.

        Args:
            header: The frame's.
            image: Its pixels, where it was decoded.
            results: Of this frame, by the targets' ids.
            processing_s: What they took.
        """
        targets = self._targets.targets
        reports = [TargetReport.of(t.machine, results.get(t.target_id)) for t in targets]
        known = tuple(target.target_id for target in targets)
        gone = tuple(target_id for target_id in self._known if target_id not in known)
        self._known = known
        self._report(
            FrameReport(
                header,
                image,
                tuple(reports or [TargetReport.of(self._targets.machines[0])]),
                gone,
                processing_s,
                FrameCounts(**vars(self.counts)),
            )
        )


def _start_on(selection: Selection, image: np.ndarray) -> Callable[[Tracker], None]:
    """What initialises a tracker as selected.

    Raises:
        SelectionRefused: Box or mask do not fit the image.
    """
    height, width = image.shape[:2]
    if selection.mask is None:
        box = box_on_image(selection.box, width, height)
        return lambda tracker: tracker.initialize(image, box)
    mask = mask_on_image(selection.mask, width, height)
    return lambda tracker: tracker.initialize_mask(image, mask)


T = TypeVar("T")

_SHORT_S = 0.5


@dataclass
class Replay:
    """How far a target has come.

    Attributes:
        place_ns: Stamp of the last frame it has seen.
        step_s: Seconds that a step takes.
        began: When the replay began, by the monotonic clock.
    """

    place_ns: int
    step_s: float
    began: float = field(default_factory=time.monotonic)

    def choose(self, frames: Sequence[StampedFrame[T]]) -> StampedFrame[T] | None:
        """The next frame to track, and take it as seen.

        If all of them can be tracked within half a second, none is left out. Else frames are
        left out so that each step moves on through the recording at least twice as fast as the
        time it takes: the replay ends however slow the model is and however fast the camera.

        Args:
            frames: Those that came after `place_ns`.

        Returns:
            One of them, the last one when the replay ends with it; None if there are none.
        """
        if not frames:
            return None
        interval_s = (frames[-1].stamp_ns - self.place_ns) / len(frames) / 1e9
        replayed_s = time.monotonic() - self.began
        stride = 1
        if replayed_s + len(frames) * self.step_s > _SHORT_S:
            stride = max(1, math.ceil(2.0 * self.step_s / max(interval_s, 1e-6)))
        chosen = frames[min(stride, len(frames)) - 1]
        self.place_ns = chosen.stamp_ns
        return chosen
