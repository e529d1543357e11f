# SPDX-License-Identifier: Apache-2.0
"""Read a stream that comes once: from a camera in the network, or from another program.

| Source | Means |
| --- | --- |
| ``rtsp://…``, ``http://…``, ``udp://…`` … | what FFmpeg reads from such an address |
| ``-`` | standard input: a container that FFmpeg recognises (Y4M, MJPEG, Matroska …) |
| ``-`` with a size | standard input: raw frames, 3 bytes R, G, B per pixel, one after the other |
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from tracker_ros.io.sources import DEFAULT_FPS, VideoSource, upright

_TIMEOUT_S = 15.0


class Stream(VideoSource):
    """A stream decoded by PyAV; a new iteration goes on with its next frame.

    Args:
        name: Address, or ``-``.
        fps: Overrides the rate and the times of the frames.
        size: Width and height of raw frames on standard input.

    Raises:
        FileNotFoundError: The address does not answer.
        ValueError: What comes is no video.
        ImportError: PyAV is missing.
    """

    def __init__(self, name: str, fps: float | None, size: tuple[int, int] | None) -> None:
        try:
            import av
        except ImportError as error:
            raise ImportError(f"reading streams needs PyAV ({error}): pip install av") from error
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

    def timed_frames(self, start: int = 0) -> Iterator[tuple[float, np.ndarray]]:
        """Yield time and image of each frame still to come; see `VideoSource`."""
        skipped = 0
        while (frame := self._next()) is not None:
            timed = self._keep_times and frame.time is not None
            time_s = frame.time - self._begin if timed else self._number / self.fps
            self._number += 1
            if skipped < start:
                skipped += 1
                continue
            yield time_s, upright(frame)

    def _next(self) -> Any:
        """Return the next frame, or None at the end."""
        if self._first is not None:
            frame, self._first = self._first, None
            return frame
        return next(self._frames, None)

    def close(self) -> None:
        """End the connection."""
        self._container.close()


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
