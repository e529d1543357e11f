# SPDX-License-Identifier: Apache-2.0
"""Frames of video files and webcams, decoded by PyAV or OpenCV."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from tracker_ros.video_source import DEFAULT_FPS, VideoSource

__all__ = ["Webcam", "open_video_file"]

_LOG = logging.getLogger(__name__)


class _PyAvFile(VideoSource):
    """A video file decoded by PyAV, turned upright when its metadata says so."""

    def __init__(self, name: str, fps: float | None) -> None:
        import av

        self.name = name
        self._av = av
        try:
            with av.open(name) as container:
                if not container.streams.video:
                    raise ValueError(f"{name!r} has no video stream; give a file with pictures")
                stream = container.streams.video[0]
                rate = stream.average_rate or stream.guessed_rate
                self.fps = float(fps or rate or DEFAULT_FPS)
                self.frame_count = stream.frames or None
                first = next(container.decode(stream), None)
        except av.error.FFmpegError as error:
            raise ValueError(
                f"{name!r} is not a video that FFmpeg can read ({error}); convert it, "
                "e.g. to H.264 in MP4"
            ) from error
        if first is None:
            raise ValueError(f"{name!r} holds no frames; is the file complete?")
        height, width = _upright(first).shape[:2]
        self.size = (width, height)

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.frames_from(0)

    def frames_from(self, start: int) -> Iterator[np.ndarray]:
        with self._av.open(self.name) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in itertools.islice(container.decode(stream), start, None):
                yield _upright(frame)


class _OpenCvFile(VideoSource):
    """A video file decoded by OpenCV, for machines without PyAV."""

    def __init__(self, name: str, fps: float | None) -> None:
        self.name = name
        capture = cv2.VideoCapture(name)
        try:
            ok, frame = capture.read()
            if not ok:
                raise ValueError(
                    f"{name!r} is not a video that OpenCV can read; install PyAV (pip install av) "
                    "or convert it, e.g. to H.264 in MP4"
                )
            self.fps = float(fps or capture.get(cv2.CAP_PROP_FPS) or DEFAULT_FPS)
            frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        finally:
            capture.release()
        self.frame_count = frames if frames > 0 else None
        self.size = (frame.shape[1], frame.shape[0])

    def __iter__(self) -> Iterator[np.ndarray]:
        yield from _read_capture(cv2.VideoCapture(self.name), release=True)


class Webcam(VideoSource):
    """A camera of this machine. There is one of it: iterating again goes on, not back."""

    def __init__(self, name: str, fps: float | None, size: tuple[int, int] | None) -> None:
        self.name = f"webcam {name}"
        self._capture = cv2.VideoCapture(int(name))
        if size is not None:
            self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
            self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
        if fps is not None:
            self._capture.set(cv2.CAP_PROP_FPS, fps)
        ok, frame = self._capture.read()
        if not ok:
            self._capture.release()
            raise FileNotFoundError(
                f"webcam {name} gives no picture; see which exist with ls /dev/video*, "
                "and whether another program holds it"
            )
        self.size = (frame.shape[1], frame.shape[0])
        self.fps = float(fps or self._capture.get(cv2.CAP_PROP_FPS) or DEFAULT_FPS)

    def __iter__(self) -> Iterator[np.ndarray]:
        return _read_capture(self._capture, release=False)

    def close(self) -> None:
        """Let go of the camera."""
        self._capture.release()


def open_video_file(name: str, fps: float | None) -> VideoSource:
    """Open a video file by PyAV, or by OpenCV where PyAV is missing."""
    try:
        return _PyAvFile(name, fps)
    except ImportError as error:
        _LOG.warning("PyAV is missing (%s): decoding %s through OpenCV", error, name)
        return _OpenCvFile(name, fps)


def _upright(frame: Any) -> np.ndarray:
    """A decoded frame as RGB, turned by the quarter turns its metadata asks for."""
    image = frame.to_ndarray(format="rgb24")
    quarter_turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image


def _read_capture(capture: Any, *, release: bool) -> Iterator[np.ndarray]:
    """Frames of an OpenCV capture as RGB until it has no more."""
    try:
        while True:
            ok, frame = capture.read()
            if not ok:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    finally:
        if release:
            capture.release()
