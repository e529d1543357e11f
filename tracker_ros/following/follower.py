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
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from tracker_ros.following.detections import Detection, likely_boxes
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

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_DETECTIONS_S = 1.0
_MAX_DISTORTION = 0.05  # logarithm of the change of width over height
_MAX_TOLD_CHANGES = 8


@dataclass(frozen=True)
class Step(Generic[T]):
    """A decoded frame and the targets that are to be tracked in it."""

    frame: Frame[T]  # the frame
    image: np.ndarray  # (H, W, 3) uint8 RGB
    targets: Sequence[FollowedTarget]  # the targets, with their trackers aimed at the image
    distorted: bool  # whether the image cannot show the same view as the one before
    begin_s: float  # when work on the frame began, by the follower's clock


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
        tracking_seconds: Time spent in `Tracker.track` and `Tracker.update_model`, without
            passes that are shared with other followers.
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
        self._told_changes: set[str] = set()
        self._detections: Sequence[Detection] = ()
        self._detected_s = -math.inf
        self._clock = clock
        self._paused = False
        self._number = 0
        self._counted = 0
        self._reported: tuple[str, ...] = ()
        self._processing_s = 0.0
        self.counts = FrameCounts()
        self.explain = targets.tracker is not None and targets.tracker.explain
        self.tracking_seconds = 0.0

    def load(self, make: Callable[[], Tracker]) -> Tracker:
        """Make the model, warm it up and return it; the state is LOADING until `loaded`."""
        self.begin_loading()
        tracker = make()
        tracker.warm_up()
        self.use(tracker)
        return tracker

    def begin_loading(self) -> None:
        """Drop targets and model, and report the state LOADING until `loaded`."""
        self.unload()
        self._targets.state = TargetState.LOADING
        self.report_change()

    def use(self, tracker: Tracker) -> None:
        """Follow targets with this tracker, which is warm, and forks of it."""
        self._targets.tracker = tracker

    def loaded(self) -> None:
        """End the state LOADING; call it when loading has finished or failed."""
        self._targets.state = TargetState.IDLE
        self.report_change()

    def runtime_info(self) -> dict[str, str]:
        """Return the back end, device and precision in use; empty without a model."""
        tracker = self._targets.tracker
        return {} if tracker is None else dict(tracker.runtime_info)

    @property
    def shares_passes(self) -> bool:
        """Whether targets of several followers can be tracked in one pass of the network."""
        tracker = self._targets.tracker
        return tracker is not None and tracker.shares_passes

    @property
    def is_following(self) -> bool:
        """Whether targets are looked for in new frames; may be asked in any thread."""
        return len(self._targets) > 0 and not self._paused

    def unload(self) -> None:
        """Drop the targets and the model."""
        self._drop_targets("the model has been unloaded")
        self._targets.unload()

    def reset(self) -> None:
        """Forget targets, pause, counters and place in the stream; keep the model."""
        self._drop_targets("tracking has been reset")
        self._targets.trim()
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

    def note_detections(self, detections: Sequence[Detection]) -> None:
        """Look for lost targets where a detector has just found something of their class."""
        self._detections, self._detected_s = detections, self._clock()

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
        step = self.begin(frame)
        return self.complete(step) if isinstance(step, Step) else step

    def begin(self, frame: Frame[T]) -> Step[T] | FrameReport[T] | None:
        """Decode the newest frame and aim the trackers; `complete` does the rest.

        Returns a report if there is nothing to track, and None if the frame was handled before.
        """
        if frame.number <= self._number:
            return None
        self._number = frame.number
        return self._prepare(frame, [] if self._paused else self._targets_to_track())

    def complete(self, step: Step[T]) -> FrameReport[T]:
        """Track the targets of a step, report its frame and update the models."""
        report = self.finish(step, self._track(step))
        self.update_models(step, report)
        return report

    def finish(self, step: Step[T], outcomes: Sequence[TrackResult | Exception]) -> FrameReport[T]:
        """Report a frame, given the outcome of each target; `update_models` is to follow."""
        results = self._take(step, outcomes)
        processing_s = self._clock() - step.begin_s
        self._count(step.frame, "tracked" if results else "rejected")
        return self._publish(step.frame, step.image, results, processing_s)

    def update_models(self, step: Step[T], report: FrameReport[T]) -> None:
        """Let trackers update their models of the targets, now that their results are out."""
        results = {target.target_id: target.result for target in report.targets}
        may_look_back = True
        for target in step.targets:
            result = results.get(target.target_id)
            if result is not None and result.verdict is not Verdict.NOT_FOUND:
                looked = self._update_model(target, step.image, result, may_look_back)
                # One target per frame, since the next frame waits.
                may_look_back = may_look_back and not looked
        self._processing_s = self._clock() - step.begin_s

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
            self._told_changes.clear()
        append = selection.append
        target = self._targets.select(initialize, frame.time_s, selection.label, append)
        target.start(image, selection.bounds)
        if len(self._targets) == 1:
            self._number = frame.number
        self._count(frame, "tracked")
        return target

    def _targets_to_track(self) -> list[FollowedTarget]:
        """Return the targets to track in the newest frame."""
        return list(self._targets)

    def _prepare(
        self, frame: Frame[T], targets: Sequence[FollowedTarget]
    ) -> Step[T] | FrameReport[T]:
        """Decode a frame and aim the targets' trackers; report it if nothing can be tracked."""
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
        height, width = image.shape[:2]
        recent = begin - self._detected_s < _DETECTIONS_S
        detections = self._detections if recent else ()
        for target in targets:
            target.tracker.explain = self.explain
            proposals = likely_boxes(detections, target.label) if detections else ()
            target.aim(frame.time_s, height, width, proposals)
        return Step(frame, image, targets, self._note_size(height, width), begin)

    def _replay(self, frame: Frame[T], target: FollowedTarget) -> None:
        """Track a target that lags behind in an earlier frame, without a report."""
        step = self._prepare(frame, [target])
        if isinstance(step, Step):
            results = self._take(step, self._track(step))
            self._processing_s = self._clock() - step.begin_s
            self._count(frame, "tracked" if results else "rejected")

    def _track(self, step: Step[T]) -> list[TrackResult | Exception]:
        begin = self._clock()
        outcomes = self._targets.track(step.image, step.targets)
        self.tracking_seconds += self._clock() - begin
        return outcomes

    def _take(
        self, step: Step[T], outcomes: Sequence[TrackResult | Exception]
    ) -> dict[str, TrackResult]:
        """Update the targets' states. Returns results by id."""
        frame, image = step.frame, step.image
        results: dict[str, TrackResult] = {}
        failures: dict[str, Exception] = {}
        for target, outcome in zip(step.targets, outcomes, strict=True):
            if isinstance(outcome, TrackResult):
                if step.distorted and outcome.verdict is not Verdict.NOT_FOUND:
                    outcome = replace(outcome, verdict=Verdict.UNCERTAIN)
                try:
                    outcome = target.take(outcome, frame.time_s, image)
                except Exception as fault:  # to look back uses the model, which may fail
                    outcome = fault
            if isinstance(outcome, TrackResult):
                results[target.target_id] = outcome
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
            for error in failures.values():
                # Its traceback holds the calls' frames, and these hold the error and the image.
                error.__traceback__ = None
        else:
            self._complain(FaultSource.MODEL, "", None)
        return results

    def _note_size(self, height: int, width: int) -> bool:
        """Return whether the image's size has changed to one that cannot show the same view.

        Each change is logged once until targets are selected anew, and only the first few.
        """
        before, self._image_size = self._image_size, (height, width)
        if before in (None, (height, width)):
            return False
        assert before is not None
        change = (width / before[1]) / (height / before[0])
        distorted = abs(math.log(change)) > _MAX_DISTORTION
        text = f"images change from {before[1]}x{before[0]} to {width}x{height} pixels: " + (
            "not the same view by its sides, so targets are uncertain; select them again where "
            "they are not found"
            if distorted
            else "targets are scaled with them"
        )
        if text not in self._told_changes and len(self._told_changes) < _MAX_TOLD_CHANGES:
            self._told_changes.add(text)
            self._inform(text)
        return distorted

    def _update_model(
        self, target: FollowedTarget, image: np.ndarray, result: TrackResult, may_look_back: bool
    ) -> bool:
        """Let a target's model be updated. Returns whether that looked back."""
        begin, looked = self._clock(), False
        try:
            looked = target.update_model(image, result, may_look_back)
        except Exception as error:  # as in tracking: the next frame gets its chance
            self.counts.faults += 1
            self._complain(
                FaultSource.MODEL,
                f"updating the model failed: {describe_error(error)}",
                error,
            )
        self.tracking_seconds += self._clock() - begin
        return looked

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
                t.state, t.target_id, t.label, t.score, t.doubt, t.seconds_since_seen,
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
