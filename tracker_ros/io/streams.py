# SPDX-License-Identifier: Apache-2.0
"""Read what comes once: from a camera, here or in the network, or from another program.

| Source | Means |
| --- | --- |
| ``0`` or ``/dev/video0`` | the webcam of that index |
| ``rtsp://…``, ``http://…``, ``udp://…`` … | what FFmpeg reads from such an address |
| ``-`` | standard input: a container that FFmpeg recognises (Y4M, MJPEG, Matroska …) |
| ``-`` with a size | standard input: raw frames, 3 bytes R, G, B per pixel, one after the other |
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from tracker_ros.io.video_source import DEFAULT_FPS, BadFrame, VideoSource, import_av, upright

_TIMEOUT_S = 15.0


class Stream(VideoSource):
    """A stream decoded by PyAV; a new iteration goes on with its next frame.

    The name is an address, or ``-``, of which raw frames have the given size. `fps` overrides the
    rate and the times of the frames. Raises FileNotFoundError if the address does not answer,
    ValueError if what comes is no video, ImportError without PyAV.
    """

    def __init__(self, name: str, fps: float | None, size: tuple[int, int] | None) -> None:
        av = import_av("reading streams")
        self.name = "standard input" if name == "-" else name
        self._keep_times = fps is None
        try:
            self._container = _open(av, name, fps or DEFAULT_FPS, size)
            if not self._container.streams.video:
                raise ValueError(f"{self.name} has no video stream; give one with pictures")
            stream = self._container.streams.video[0]
            self._frames: Iterator[Any] = self._container.decode(stream)
            self._first = next(self._frames, None)
        except (av.error.FFmpegError, OSError) as error:
            raise FileNotFoundError(
                f"{self.name} gives no video ({error}); see whether ffplay shows it"
            ) from error
        if self._first is None:
            raise ValueError(f"{self.name} ended before its first frame")
        self.fps = float(fps or stream.average_rate or stream.guessed_rate or DEFAULT_FPS)
        height, width = upright(self._first).shape[:2]
        self.size = (width, height)
        self._begin = self._first.time or 0.0
        self._number = 0

    def first_image(self) -> np.ndarray:
        """Return the next image, at the beginning the first; see `VideoSource`."""
        self._first = self._next()
        if self._first is None:
            raise ValueError(f"{self.name} has ended")
        return upright(self._first)

    def timed_frames(self, start: int = 0) -> Iterator[tuple[float, np.ndarray]]:
        """Yield time and image of each frame still to come; see `VideoSource`."""
        while (frame := self._next()) is not None:
            timed = self._keep_times and frame.time is not None
            time_s = frame.time - self._begin if timed else self._number / self.fps
            self._number += 1
            if self._number > start:
                yield time_s, upright(frame)

    def _next(self) -> Any:
        if self._first is not None:
            frame, self._first = self._first, None
            return frame
        return next(self._frames, None)

    def close(self) -> None:
        """End the connection."""
        self._container.close()


class Webcam(VideoSource):
    """A camera of this machine; a new iteration goes on with its next image.

    OpenCV reads it: unlike PyAV it negotiates the camera's pixel format and size by itself, and
    needs no name of a driver. Rate and size are asked for. Raises FileNotFoundError if there is no
    such camera, or it gives no image.
    """

    def __init__(self, name: str, fps: float | None, size: tuple[int, int] | None) -> None:
        self.name = f"webcam {name}"
        self.live = True
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
        self._first: tuple[float, np.ndarray] | None = None

    def first_image(self) -> np.ndarray:
        """Return the next image; see `VideoSource`."""
        self._first = self._first or self._read()
        if self._first is None:
            raise ValueError(f"{self.name} gives no picture any more; is it still connected?")
        return self._first[1]

    def timed_frames(self, start: int = 0) -> Iterator[tuple[float, np.ndarray | BadFrame]]:
        """Yield time and image of each frame; see `VideoSource`."""
        begin: float | None = None
        for number in itertools.count():
            taken, self._first = self._first or self._read(), None
            if taken is None:
                return
            taken_s, image = taken
            begin = taken_s if begin is None else begin
            if number >= start:
                yield taken_s - begin, image

    def _read(self) -> tuple[float, np.ndarray] | None:
        """Return when the next image came, and the image; None at the end."""
        ok, frame = self._capture.read()
        return (time.monotonic(), cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)) if ok else None

    def close(self) -> None:
        """Let go of the camera."""
        self._capture.release()


def _open(av: Any, name: str, fps: float, size: tuple[int, int] | None) -> Any:
    """Open an address or standard input with PyAV."""
    if name != "-":
        return av.open(name, timeout=_TIMEOUT_S)
    if size is None:
        return av.open(sys.stdin.buffer)
    options = {
        "video_size": f"{size[0]}x{size[1]}",
        "pixel_format": "rgb24",
        "framerate": f"{fps:g}",
    }
    return av.open(sys.stdin.buffer, format="rawvideo", options=options)
