# SPDX-License-Identifier: Apache-2.0
"""Writing videos that a web browser plays: H.264, yuv420p, index at the front of the file."""

from __future__ import annotations

import logging
import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

_LOG = logging.getLogger(__name__)

H264_ENCODERS = ("libx264", "libopenh264", "h264_nvenc", "h264_v4l2m2m", "h264_videotoolbox")
"""Encoders of PyAV's FFmpeg that make H.264, in the order tried."""


class VideoWriter:
    """Write RGB frames to an MP4 file.

    With PyAV the file is H.264 in yuv420p with its index first, which browsers play while
    loading. Without PyAV, or where its FFmpeg has no H.264 encoder, OpenCV writes MPEG-4
    part 2 (``mp4v``), which most players but few browsers understand; one line is logged.
    H.264 in yuv420p needs even sides: an odd side grows by one repeated row or column.

    The file appears under its name only when complete. Leaving a ``with`` block by an
    exception discards it.

    Args:
        path: File to write; its folder is made when missing. Should end in ``.mp4``.
        fps: Frames per second, above 0.
        size: Width and height of the frames in pixels.

    Raises:
        ValueError: If the rate or the size is not positive.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float, size: tuple[int, int]) -> None:
        if not 0 < fps <= 1000:
            raise ValueError(f"fps is {fps}; give a rate above 0 and up to 1000 frames/s")
        if min(size) < 1:
            raise ValueError(f"size is {size}; width and height must be at least 1 pixel")
        self.path = Path(path)
        self.fps = float(fps)
        self.size = (int(size[0]), int(size[1]))
        self.frames_written = 0
        self._part = self.path.with_name(f".{self.path.stem}.part.mp4")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        even = (self.size[0] + self.size[0] % 2, self.size[1] + self.size[1] % 2)
        self._encoder = _open_h264(self._part, self.fps, even) or _OpenCvEncoder(
            self._part, self.fps, even
        )

    @property
    def codec(self) -> str:
        """The codec in use: ``"h264"``, or ``"mp4v"`` after the fallback."""
        return self._encoder.codec

    def write(self, frame_rgb: np.ndarray) -> None:
        """Append one frame.

        Args:
            frame_rgb: (H, W, 3) uint8, RGB, of the size given at the start.

        Raises:
            ValueError: If shape or type differ from what was announced.
        """
        width, height = self.size
        if frame_rgb.shape != (height, width, 3) or frame_rgb.dtype != np.uint8:
            raise ValueError(
                f"frame has shape {frame_rgb.shape} and type {frame_rgb.dtype}; this writer was "
                f"opened for RGB uint8 of shape {(height, width, 3)}: resize the frame first"
            )
        if width % 2 or height % 2:
            frame_rgb = np.pad(frame_rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        self._encoder.write(np.ascontiguousarray(frame_rgb))
        self.frames_written += 1

    def close(self) -> None:
        """Finish the file and give it its name. Closing twice does nothing more."""
        if self._encoder.close():
            os.replace(self._part, self.path)

    def discard(self) -> None:
        """Stop and remove the unfinished file."""
        if self._encoder.close():
            self._part.unlink(missing_ok=True)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


class _PyAvEncoder:
    """H.264 through PyAV."""

    codec = "h264"

    def __init__(self, container: Any, stream: Any, frame_class: Any) -> None:
        self._container = container
        self._stream = stream
        self._frame_class = frame_class
        self._open = True

    def write(self, frame_rgb: np.ndarray) -> None:
        """Encode one frame of even sides."""
        frame = self._frame_class.from_ndarray(frame_rgb, format="rgb24")
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def close(self) -> bool:
        """Flush and close; True the first time."""
        if not self._open:
            return False
        self._open = False
        for packet in self._stream.encode():
            self._container.mux(packet)
        self._container.close()
        return True


class _OpenCvEncoder:
    """MPEG-4 part 2 through OpenCV, for machines without PyAV."""

    codec = "mp4v"

    def __init__(self, path: Path, fps: float, size: tuple[int, int]) -> None:
        fourcc = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(path), fourcc, fps, size)
        if not self._writer.isOpened():
            raise RuntimeError(
                f"cannot write {path}: neither PyAV nor OpenCV has a video encoder; "
                "install PyAV (pip install av)"
            )
        self._open = True

    def write(self, frame_rgb: np.ndarray) -> None:
        """Encode one frame of even sides."""
        self._writer.write(cv2.cvtColor(frame_rgb, cv2.COLOR_RGB2BGR))

    def close(self) -> bool:
        """Flush and close; True the first time."""
        if not self._open:
            return False
        self._open = False
        self._writer.release()
        return True


def _open_h264(path: Path, fps: float, size: tuple[int, int]) -> _PyAvEncoder | None:
    """Open an H.264 stream of even sides, or log once why there is none and return None."""
    try:
        import av
    except ImportError as error:
        _LOG.warning(
            "PyAV is missing (%s): writing mp4v through OpenCV, which browsers may not play; "
            "pip install av gives H.264",
            error,
        )
        return None
    names = [name for name in H264_ENCODERS if name in av.codecs_available]
    for name in names:
        container = av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"})
        try:
            rate = Fraction(fps).limit_denominator(1001)
            stream: Any = container.add_stream(name, rate=rate)
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            if name == "libx264":
                stream.options = {"crf": "21", "preset": "veryfast"}
            stream.codec_context.open()
        except (av.error.FFmpegError, ValueError) as error:
            container.close()
            _LOG.info("H.264 encoder %s does not open: %s", name, error)
            continue
        return _PyAvEncoder(container, stream, av.VideoFrame)
    path.unlink(missing_ok=True)
    _LOG.warning(
        "PyAV's FFmpeg has no working H.264 encoder (tried %s): writing mp4v through OpenCV, "
        "which browsers may not play",
        ", ".join(names) or "none",
    )
    return None
