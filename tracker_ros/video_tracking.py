# SPDX-License-Identifier: Apache-2.0
"""Tracking a video in one call: `track_video` opens it, follows the target and yields results."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tracker_ros import DEFAULT_MODEL
from tracker_ros.following.follower import Follower
from tracker_ros.following.frames import number_frames
from tracker_ros.following.selection import Selection
from tracker_ros.following.target_set import TargetSet
from tracker_ros.following.target_state import TargetState
from tracker_ros.geometry import Box, check_box_size
from tracker_ros.io.sources import DEFAULT_FPS, VideoSource, open_video
from tracker_ros.registry import create_tracker
from tracker_ros.tracker import Tracker, TrackResult, Verdict

__all__ = ["VideoResult", "track_video"]


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
    """

    index: int
    time: float
    image: np.ndarray
    state: TargetState
    result: TrackResult
    seconds: float

    @property
    def box(self) -> Box:
        """`(x, y, w, h)`, pixels, top-left corner."""
        return self.result.box

    @property
    def score(self) -> float:
        """Confidence in [0, 1]."""
        return self.result.score

    @property
    def verdict(self) -> Verdict | None:
        """The tracker's own verdict; None if it gives none."""
        return self.result.verdict

    @property
    def mask(self) -> np.ndarray | None:
        """(H, W) bool, the target's pixels; None in the first frame or without a mask."""
        return self.result.mask


def track_video(
    source: str | Path | Iterable[np.ndarray],
    box: Sequence[float] | None = None,
    *,
    mask: np.ndarray | None = None,
    model: str | Tracker = DEFAULT_MODEL,
    fps: float | None = None,
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
        **options: For `create_tracker`, such as `device` or `weights`.

    Returns:
        An iterator with a result for every frame. Close it, or use it up, to release a webcam.

    Raises:
        FileNotFoundError: The source does not exist.
        ValueError: An argument cannot be used; the message says what to do. Those that can be
            checked only on the first frame are checked when it is read.
    """
    if box is not None and mask is not None:
        raise ValueError("box and mask are given; leave one out")
    if isinstance(model, Tracker) and options:
        raise ValueError(f"{', '.join(options)}: give these to create_tracker, with the model")
    with contextlib.ExitStack() as stack:
        images: Iterable[np.ndarray]
        if isinstance(source, (str, Path)):
            images = stack.enter_context(open_video(source, fps=fps))
        else:
            images = source
        if isinstance(images, VideoSource):
            fps = fps or images.fps
            box = images.first_box if box is None and mask is None else box
        if box is None and mask is None:
            raise ValueError("box is missing; give (x, y, w, h) of the target in the first frame")
        if fps is not None and not fps > 0:
            raise ValueError(f"fps is {fps}; give a rate above 0")
        selection = Selection(None if box is None else check_box_size(box), mask)
        tracker = model if isinstance(model, Tracker) else create_tracker(model, **options)
        tracker.warm_up()
        return _follow(tracker, selection, images, fps or DEFAULT_FPS, stack.pop_all())


def _follow(
    tracker: Tracker,
    selection: Selection,
    images: Iterable[np.ndarray],
    fps: float,
    opened: contextlib.ExitStack,
) -> Iterator[VideoResult]:
    """Yield a result for each image, and close what was opened at the end."""
    follower = Follower[np.ndarray](lambda image: image, TargetSet(tracker=tracker))
    index, seconds = -1, 0.0
    with opened:
        frames = number_frames(images, fps)
        for index, report in enumerate(follower.follow(selection, frames)):
            result, image = report.first.result, report.image
            assert report.frame is not None and result is not None and image is not None
            taken = follower.tracking_seconds - seconds
            seconds += taken
            yield VideoResult(index, report.frame.time_s, image, report.first.state, result, taken)
    if index < 0:
        name = getattr(images, "name", "the source")
        raise ValueError(f"{name} gave no frame; see whether it plays elsewhere")
