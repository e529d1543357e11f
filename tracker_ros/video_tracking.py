# SPDX-License-Identifier: Apache-2.0
"""Tracking a video in one call: `track_video` opens it, follows the target and yields results.

`track_targets` does the same for several targets at once.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tracker_ros import DEFAULT_MODEL
from tracker_ros.following.follower import Follower
from tracker_ros.following.frames import (
    FaultSource,
    Frame,
    TargetReport,
    number_frames,
    timed_frames,
)
from tracker_ros.following.redetection import RedetectionSettings
from tracker_ros.following.selection import Selection
from tracker_ros.following.target_set import TargetSet
from tracker_ros.following.target_state import Doubt, TargetState
from tracker_ros.geometry import Box, check_box_size
from tracker_ros.io.sources import open_video
from tracker_ros.io.video_source import DEFAULT_FPS, BadFrame, VideoSource, check_rate, no_frame
from tracker_ros.masks import label_map, one_object
from tracker_ros.registry import create_tracker
from tracker_ros.tracker import Tracker, TrackResult, Verdict


@dataclass(frozen=True)
class VideoResult:
    """The target in one frame of a video.

    Attributes:
        index: Number of the frame, counted from 0.
        time: Seconds from the first frame to this one.
        image: The frame, RGB uint8 (H, W, 3).
        state: TRACKING, UNCERTAIN or LOST; a lost target still has a box.
        result: All that the tracker returned, such as the response map. In the first frame it is
            the given box, with score 1.
        seconds: Time that the tracker took for the frame; 0 for the first one.
        score: How likely the box is right, in [0, 1]; see `tracker_ros.calibration`.
        doubt: What speaks most against it; NONE while the target is found.
    """

    index: int
    time: float
    image: np.ndarray
    state: TargetState
    result: TrackResult
    seconds: float
    score: float
    doubt: Doubt

    @property
    def box(self) -> Box:
        """`(x, y, w, h)`, pixels, top-left corner."""
        return self.result.box

    @property
    def verdict(self) -> Verdict | None:
        """The tracker's own verdict; None if it gives none."""
        return self.result.verdict

    @property
    def mask(self) -> np.ndarray | None:
        """(H, W) bool, the target's pixels; None in the first frame or without a mask."""
        return self.result.mask


@dataclass(frozen=True)
class VideoFrame:
    """All targets in one frame of a video.

    Attributes:
        index: Number of the frame, counted from 0.
        time: Seconds from the first frame to this one.
        image: The frame, RGB uint8 (H, W, 3).
        targets: Id, state, score and result of each target, in the order of their selection.
        seconds: Time that the trackers took for the frame; 0 for the first one.
    """

    index: int
    time: float
    image: np.ndarray
    targets: tuple[TargetReport, ...]
    seconds: float


def track_video(
    source: str | Path | Iterable[np.ndarray],
    box: Sequence[float] | None = None,
    *,
    mask: np.ndarray | None = None,
    model: str | Tracker = DEFAULT_MODEL,
    fps: float | None = None,
    redetection: RedetectionSettings | None = None,
    **options: Any,
) -> Iterator[VideoResult]:
    """Follow a target through a video.

    For example::

        for result in track_video("clip.mp4", (x, y, w, h)):
            print(result.index, result.time, result.box, result.score)

    Args:
        source: A video file, image folder or glob, webcam index or another source that
            `tracker_ros.io.sources.open_video` knows; or images, RGB uint8 (H, W, 3).
        box: `(x, y, w, h)` of the target in the first frame, pixels, top-left corner. It may be
            left out for a source that knows it.
        mask: (H, W) bool, the target's pixels in the first frame, instead of a box.
        model: Name of a model, or a tracker; its earlier target is forgotten.
        fps: Frames per second, if not the source's.
        redetection: How a lost target is looked for; None looks where it was lost alone.
        **options: For `create_tracker`, such as `device` or `weights`.

    Returns:
        An iterator with a result for every frame that can be read; the others are logged. The
        first of them counts as the first frame. Close it, or use it up, to release a webcam.

    Raises:
        FileNotFoundError: The source does not exist.
        ValueError: An argument cannot be used; the message says what to do. Those that can be
            checked only on the first frame are checked when it is read.
    """
    if box is not None and mask is not None:
        raise ValueError("box and mask are given; leave one out")
    masks = () if mask is None else (one_object(label_map(mask)),)
    boxes = () if box is None else (box,)
    frames = track_targets(
        source, boxes, masks, model=model, fps=fps, redetection=redetection, **options
    )
    return (_first_target(frame) for frame in frames)


def track_targets(
    source: str | Path | Iterable[np.ndarray],
    boxes: Sequence[Sequence[float]] = (),
    masks: Sequence[np.ndarray] = (),
    *,
    model: str | Tracker = DEFAULT_MODEL,
    fps: float | None = None,
    on_bad_frame: Callable[[BadFrame], None] | None = None,
    redetection: RedetectionSettings | None = None,
    **options: Any,
) -> Iterator[VideoFrame]:
    """Follow several targets through a video with one copy of the network.

    Source, model, rate and options, and what is raised, are as for `track_video`. Boxes `(x, y, w,
    h)` of the targets in the first frame may be left out for a source that knows its target;
    masks, (H, W) bool for each further target, share no pixel. `on_bad_frame` is called with each
    frame of the source that cannot be read; by default it is logged. Such a frame gives no result,
    and the run goes on.

    Returns an iterator with all targets of every frame, those of boxes first.
    """
    if isinstance(model, Tracker) and options:
        raise ValueError(f"{', '.join(options)}: give these to create_tracker, with the model")
    with contextlib.ExitStack() as stack:
        images: Iterable[np.ndarray]
        # A source that is opened here has the given rate itself.
        new_times = fps is not None and not isinstance(source, (str, Path))
        if isinstance(source, (str, Path)):
            images = stack.enter_context(open_video(source, fps=fps))
        else:
            images = source
        if isinstance(images, VideoSource):
            fps = fps or images.fps
            if not boxes and not masks and images.first_box is not None:
                boxes = (images.first_box,)
        if not boxes and not masks:
            raise ValueError("box is missing; give (x, y, w, h) of the target in the first frame")
        check_rate(fps)
        selections = [Selection(check_box_size(box)) for box in boxes]
        selections += [Selection(mask=mask) for mask in masks]
        tracker = model if isinstance(model, Tracker) else create_tracker(model, **options)
        tracker.warm_up()
        name = getattr(images, "name", "the source")
        frames: Iterator[Frame[np.ndarray | BadFrame]]
        if isinstance(images, VideoSource) and not new_times:
            frames = timed_frames(images.timed_frames())
        else:
            frames = number_frames(images, fps or DEFAULT_FPS)
        return _follow(
            TargetSet(tracker=tracker, redetection=redetection),
            selections,
            frames,
            name,
            on_bad_frame or _log_bad_frame,
            stack.pop_all(),
        )


def _first_target(frame: VideoFrame) -> VideoResult:
    """Return the first target of a frame as a result of its own."""
    first = frame.targets[0]
    assert first.result is not None
    return VideoResult(
        frame.index,
        frame.time,
        frame.image,
        first.state,
        first.result,
        frame.seconds,
        first.score,
        first.doubt,
    )


def _follow(
    targets: TargetSet,
    selections: Sequence[Selection],
    frames: Iterator[Frame[np.ndarray | BadFrame]],
    name: str,
    on_bad_frame: Callable[[BadFrame], None],
    opened: contextlib.ExitStack,
) -> Iterator[VideoFrame]:
    """Yield the targets in each image, and close what was opened at the end."""

    def decode(image: np.ndarray | BadFrame) -> np.ndarray:
        if isinstance(image, BadFrame):
            raise image
        return image

    def is_unreadable(frame: Frame[np.ndarray | BadFrame]) -> bool:
        if isinstance(frame.payload, BadFrame):
            on_bad_frame(frame.payload)
            return True
        return False

    complain = telling_bad_frames(on_bad_frame)
    follower = Follower[np.ndarray | BadFrame](decode, targets, complain=complain)
    seconds = 0.0
    report = None
    with opened:
        # The targets start on the first image that can be read.
        for report in follower.follow(selections, itertools.dropwhile(is_unreadable, frames)):
            assert report.frame is not None
            taken = follower.tracking_seconds - seconds
            seconds += taken
            frame, image = report.frame, report.image
            if image is not None:
                yield VideoFrame(frame.number - 1, frame.time_s, image, report.targets, taken)
    if report is None:
        raise no_frame(name)


def telling_bad_frames(
    on_bad_frame: Callable[[BadFrame], None],
) -> Callable[[FaultSource, str, Exception | None], None]:
    """Return a follower's `complain` that tells of frames that cannot be read, and raises others.

    So an offline run goes on without those frames, and whatever else fails ends it.
    """

    def complain(source: FaultSource, text: str, error: Exception | None) -> None:
        if isinstance(error, BadFrame):
            on_bad_frame(error)
        elif error is not None:
            raise error

    return complain


def _log_bad_frame(frame: BadFrame) -> None:
    logging.getLogger(__name__).warning("%s", frame)
