# SPDX-License-Identifier: Apache-2.0
"""The loop that follows targets from frame to frame; every program of the package drives it.

`Follower` is enough where frames come one by one, as from a video::

    follower = Follower(lambda image: image, TargetSet(tracker=tracker))
    for report in follower.follow(Selection(box), number_frames(images)):
        print(report.first.result.box)

`tracker_ros.following.live_follower` adds what a live camera needs. All methods of one follower
must be called in one thread.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

import numpy as np

from tracker_ros.following.frames import (
    FaultSource,
    Frame,
    FrameCounts,
    FrameReport,
    TargetReport,
)
from tracker_ros.following.redetection import RedetectionSettings
from tracker_ros.following.selection import Outcome, Selection, SelectionCode
from tracker_ros.following.target_set import FollowedTarget, TargetSet
from tracker_ros.following.target_state import StateLimits, TargetState
from tracker_ros.quoting import describe_error, quote
from tracker_ros.tracker import Tracker, TrackResult, Verdict

__all__ = ["Follower", "raise_error"]

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_MAX_DISTORTION = 0.05  # logarithm of the change of width over height


def raise_error(source: FaultSource, text: str, error: Exception | None) -> None:
    """Raise the error of a frame; this is what a follower does unless told otherwise."""
    if error is not None:
        raise error


class Follower(Generic[T]):
    """Follows targets through frames and reports each frame.

    Args:
        decode: Turns a frame's payload into RGB uint8 (H, W, 3); raises ValueError if it cannot.
        targets: The targets and the model.
        report: Called with a report of every frame, before the model is updated, and of every
            change.
        complain: Called with the source of a fault, a text and the error when a frame could not be
            decoded or tracked; with an empty text and None when that source was good again. It
            may raise the error.
        wants_image: Whether frames should be decoded even while nothing is tracked.
        inform: Called with a line about the stream that people should read.
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
        report: Callable[[FrameReport[T]], None] = lambda report: None,
        complain: Callable[[FaultSource, str, Exception | None], None] = raise_error,
        wants_image: Callable[[], bool] = lambda: False,
        inform: Callable[[str], None] = _LOG.warning,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._decode = decode
        self._targets = targets
        self._report = report
        self._complain = complain
        self._wants_image = wants_image
        self._inform = inform
        self._image_size: tuple[int, int] | None = None
        self._clock = clock
        self._paused = False
        self._number = 0
        self._counted = 0
        self._reported: tuple[str, ...] = ()
        self._processing_s = 0.0
        self.counts = FrameCounts()
        self.explain = targets.tracker is not None and targets.tracker.explain
        self.tracking_seconds = 0.0

    def load(self, make: Callable[[], Tracker]) -> None:
        """Make the model and warm it up; the state is LOADING until `loaded`."""
        self.unload()
        self._targets.state = TargetState.LOADING
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

    def unload(self) -> None:
        """Drop the targets and the model."""
        self._drop_targets("the model has been unloaded")
        self._targets.unload()

    def reset(self) -> None:
        """Forget targets, pause, counters and place in the stream; keep the model."""
        self._drop_targets("tracking has been reset")
        self._paused = False
        self._number = self._counted = 0
        self._processing_s = 0.0
        self.counts = FrameCounts()
        self.report_change()

    def set_limits(
        self, limits: StateLimits, redetection: RedetectionSettings | None = None
    ) -> None:
        """Change the thresholds of the targets' states, and how lost targets are looked for."""
        self._targets.set_limits(limits, redetection)

    def follow(
        self, selections: Selection | Sequence[Selection], frames: Iterable[Frame[T]]
    ) -> Iterator[FrameReport[T]]:
        """Start on the first frame (see `start`), follow the targets through the others.

        Yields:
            A report of each frame.
        """
        for place, frame in enumerate(frames):
            report = self.handle(frame) if place else self.start(selections, frame)
            if report is not None:
                yield report

    def start(
        self, selections: Selection | Sequence[Selection], frame: Frame[T]
    ) -> FrameReport[T]:
        """Start following one or more targets on a given frame.

        Stamps and ``frame_id`` of the selections are not used, and their boxes or masks are
        checked by the tracker alone. Of several, the first replaces the present targets unless it
        says ``append``, and the others are added. Targets started on masks share no pixel.

        Returns:
            A report whose results are the selected boxes, or those around the masks, with score 1.

        Raises:
            SelectionRefused: Too many targets are followed already.
            ValueError: The tracker cannot start there; see `Tracker.initialize`.
            RuntimeError: There is no model, or it failed.
        """
        image = self._decode(frame.payload)
        several = [selections] if isinstance(selections, Selection) else selections
        results, masked = {}, []
        for place, selection in enumerate(several):
            selection = replace(selection, append=True) if place else selection
            target, box = self._start(selection, frame, image), selection.bounds
            results[target.target_id] = TrackResult(box, 1.0, None, box)
            if selection.mask is not None:
                masked.append(target.tracker)
        if len(masked) > 1:
            masked[0].join(masked[1:])
        return self._publish(frame, image, results)

    def clear(self) -> Outcome:
        """Stop following all targets."""
        ids = self._targets.ids
        self._drop_targets("all targets have been cleared")
        self.report_change()
        which = f"target{'s' if ids[1:] else ''} {', '.join(ids)}" if ids else "no target"
        return Outcome(SelectionCode.OK, f"{which} cleared")

    def remove(self, target_id: str) -> Outcome:
        """Stop following one target; refused if there is none with this id."""
        if self._targets.remove(target_id):
            self.report_change()
            return Outcome(SelectionCode.OK, f"target {target_id} removed", target_id)
        known = ", ".join(self._targets.ids) or "none"
        text = f"there is no target {quote(target_id)}; followed now: {known}"
        return Outcome(SelectionCode.UNKNOWN_TARGET, text)

    def enable(self, enabled: bool) -> Outcome:
        """Pause or resume tracking; targets and model are kept."""
        if enabled == self._paused:
            self._paused = not enabled
            for target in self._targets:
                if enabled:
                    target.resume()
                else:
                    target.pause()
            self.report_change()
        text = "tracking is enabled" if enabled else "tracking is paused, targets are kept"
        return Outcome(SelectionCode.OK, text)

    def handle(self, frame: Frame[T]) -> FrameReport[T] | None:
        """Track the targets in the newest frame. Returns None if it was handled before."""
        if frame.number <= self._number:
            return None
        self._number = frame.number
        return self._process(frame, [] if self._paused else self._targets_to_track())

    def report_change(self) -> None:
        """Report the present states without a frame."""
        self._publish(None, None, {})

    def _drop_targets(self, reason: str) -> None:
        """Forget all targets, for a reason that those who wait for one may be told."""
        self._targets.clear()

    def _start(self, selection: Selection, frame: Frame[T], image: np.ndarray) -> FollowedTarget:
        """Initialise a tracker on a frame; nothing has changed if that raises."""

        def initialize(tracker: Tracker) -> None:
            if selection.mask is None:
                tracker.initialize(image, selection.bounds)
            else:
                tracker.initialize_mask(image, selection.mask)

        if not len(self._targets) or not selection.append:
            self._image_size = image.shape[:2]
        append = selection.append
        target = self._targets.select(initialize, frame.time_s, selection.label, append)
        if len(self._targets) == 1:
            self._number = frame.number
        self._count(frame, "tracked")
        return target

    def _targets_to_track(self) -> list[FollowedTarget]:
        """Return the targets to track in the newest frame."""
        return list(self._targets)

    def _process(
        self, frame: Frame[T], targets: Sequence[FollowedTarget], replayed: bool = False
    ) -> FrameReport[T] | None:
        """Decode a frame and track targets in it; report it unless it is replayed."""
        begin, image = self._clock(), None
        if targets or self._wants_image():
            try:
                image = self._decode(frame.payload)
            except ValueError as error:
                self._count(frame, "rejected")
                self._complain(FaultSource.IMAGE, str(error), error)
                for target in targets:
                    target.no_frame(frame.time_s)
                return self._publish(frame, None, {})
            self._complain(FaultSource.IMAGE, "", None)
        if image is None or not targets:
            self._count(frame, "idle")
            return self._publish(frame, image, {})
        results = self._track(frame, image, targets)
        self._processing_s = self._clock() - begin
        self._count(frame, "tracked" if results else "rejected")
        if replayed:
            return None
        report = self._publish(frame, image, results, self._processing_s)
        for target in targets:
            result = results.get(target.target_id)
            if result is not None and result.verdict is not Verdict.NOT_FOUND:
                self._update_model(target.tracker)
        self._processing_s = self._clock() - begin
        return report

    def _track(
        self, frame: Frame[T], image: np.ndarray, targets: Sequence[FollowedTarget]
    ) -> dict[str, TrackResult]:
        """Track targets in an image and update their states. Returns results by id."""
        height, width = image.shape[:2]
        for target in targets:
            target.tracker.explain = self.explain
            target.aim(frame.time_s, height, width)
        distorted = self._note_size(height, width)
        begin = self._clock()
        outcomes = self._targets.track(image, targets)
        self.tracking_seconds += self._clock() - begin
        results: dict[str, TrackResult] = {}
        failures: dict[str, Exception] = {}
        for target, outcome in zip(targets, outcomes, strict=True):
            if isinstance(outcome, TrackResult):
                if distorted and outcome.verdict is not Verdict.NOT_FOUND:
                    outcome = replace(outcome, verdict=Verdict.UNCERTAIN)
                results[target.target_id] = target.take(outcome, frame.time_s)
            else:
                target.no_frame(frame.time_s)
                failures[target.target_id] = outcome
        if failures:
            self.counts.faults += len(failures)
            causes = "; ".join(
                f"target {name}: {describe_error(error)}" for name, error in failures.items()
            )
            text = f"tracking a {image.shape[1]}x{image.shape[0]} frame failed, {causes}"
            self._complain(FaultSource.MODEL, text, next(iter(failures.values())))
        else:
            self._complain(FaultSource.MODEL, "", None)
        return results

    def _note_size(self, height: int, width: int) -> bool:
        """Log a change of the image's size. Returns True if it cannot be the same view."""
        before, self._image_size = self._image_size, (height, width)
        if before in (None, (height, width)):
            return False
        assert before is not None
        change = (width / before[1]) / (height / before[0])
        distorted = abs(math.log(change)) > _MAX_DISTORTION
        text = f"images change from {before[1]}x{before[0]} to {width}x{height} pixels: "
        if distorted:
            self._inform(
                text
                + "not the same view by its sides, so targets are uncertain; select them again "
                "where they are not found"
            )
        else:
            self._inform(text + "targets are scaled with them")
        return distorted

    def _update_model(self, tracker: Tracker) -> None:
        """Let a tracker update its model of the target, now that its result is out."""
        begin = self._clock()
        try:
            tracker.update_model()
        except Exception as error:  # as in tracking: the next frame gets its chance
            self.counts.faults += 1
            self._complain(
                FaultSource.MODEL,
                f"updating the model failed: {describe_error(error)}",
                error,
            )
        self.tracking_seconds += self._clock() - begin

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
        """Report a frame, with its results by the targets' ids, or a change without a frame."""
        targets = [
            TargetReport(
                t.state, t.target_id, t.label, t.score, t.seconds_since_seen,
                results.get(t.target_id),
            )
            for t in self._targets
        ]  # fmt: skip
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
