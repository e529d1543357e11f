# SPDX-License-Identifier: Apache-2.0
"""Write videos that a web browser plays: H.264, yuv420p, index at the front of the file."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from tracker_ros.io.video_source import import_av
from tracker_ros.output_files import UnfinishedFile

_LOG = logging.getLogger(__name__)

H264_ENCODERS = ("libx264", "libopenh264", "h264_nvenc", "h264_v4l2m2m", "h264_videotoolbox")
"""Encoders that make H.264, in the order tried."""

_TICK = Fraction(1, 60_000)  # seconds; MPEG-4 part 2 takes no finer one than 1 / 65535

FALLBACK_ENCODER = "mpeg4"
"""FFmpeg's own encoder, which every build has."""


class VideoWriter:
    """Write RGB frames to an MP4 file with PyAV.

    The file is H.264 in yuv420p with its index first, which browsers play while loading. Where
    PyAV's FFmpeg has no H.264 encoder it is MPEG-4 part 2, which most players but few browsers
    understand, and a warning is logged. yuv420p needs even sides: an odd side grows by one
    repeated row or column.

    The file appears under its name only when complete. Leaving a ``with`` block by an exception
    discards it. Its folder is made when missing, and the size is width and height in pixels.
    Raises ValueError if rate or size is not positive, ImportError without PyAV, OSError if the
    file cannot be written; an earlier one is left as it was.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float, size: tuple[int, int]) -> None:
        if not 0 < fps <= 1000:
            raise ValueError(f"fps is {fps}; give a rate above 0 and up to 1000 frames/s")
        if min(size) < 1:
            raise ValueError(f"size is {size}; width and height must be at least 1 pixel")
        self._av = av = import_av("writing videos")
        self.path = Path(path)
        self.fps = float(fps)
        self.size = (int(size[0]), int(size[1]))
        self.frames_written = 0
        self._last_tick = -1
        self._file = UnfinishedFile(self.path)
        try:
            self._container, self._stream = self._open_encoder(av)
        except BaseException:
            self._file.discard()
            raise
        self._open = True

    def _open_encoder(self, av: Any) -> tuple[Any, Any]:
        """Open the file with the first encoder that works."""
        rate = Fraction(self.fps).limit_denominator(1001)
        for name in (*H264_ENCODERS, FALLBACK_ENCODER):
            if name not in av.codecs_available:
                continue
            with self._writing():
                container = av.open(
                    str(self._file.path), "w", format="mp4", options={"movflags": "+faststart"}
                )
            try:
                stream = container.add_stream(name, rate=rate)
                stream.width, stream.height = (side + side % 2 for side in self.size)
                stream.pix_fmt = "yuv420p"
                stream.codec_context.time_base = _TICK
                if name == "libx264":
                    stream.options = {"crf": "21", "preset": "veryfast"}
                stream.codec_context.open()
            except (av.error.FFmpegError, ValueError) as error:
                container.close()
                _LOG.info("encoder %s does not open: %s", name, error)
                continue
            if name == FALLBACK_ENCODER:
                _LOG.warning(
                    "PyAV's FFmpeg has no working H.264 encoder: writing %s as MPEG-4 part 2, "
                    "which browsers may not play; pip install av gives one",
                    self.path,
                )
            return container, stream
        raise RuntimeError(
            f"cannot write {self.path}: PyAV's FFmpeg has no video encoder that works; "
            "install another build (pip install av)"
        )

    def write(self, frame_rgb: np.ndarray, time_s: float | None = None) -> None:
        """Append one frame, RGB uint8 in the size of the video.

        It is shown at a time in seconds from the start, later than the frame before; by default at
        the rate of the video. Raises ValueError for another size or type, OSError if the file
        cannot be written.
        """
        width, height = self.size
        if frame_rgb.shape != (height, width, 3) or frame_rgb.dtype != np.uint8:
            raise ValueError(
                f"frame has shape {frame_rgb.shape} and type {frame_rgb.dtype}; this writer was "
                f"opened for RGB uint8 of shape {(height, width, 3)}: resize the frame first"
            )
        if width % 2 or height % 2:
            frame_rgb = np.pad(frame_rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_rgb), format="rgb24")
        if time_s is None:
            time_s = self.frames_written / self.fps
        self._last_tick = max(self._last_tick + 1, round(time_s / _TICK))
        frame.pts, frame.time_base = self._last_tick, _TICK
        with self._writing():
            self._container.mux(self._encode(frame))
        self.frames_written += 1

    def _encode(self, frame: Any) -> list[Any]:
        """Return the packets that the encoder gives, each as long as a frame of this rate."""
        packets: list[Any] = self._stream.encode(frame)
        for packet in packets:
            packet.duration = round(1 / self.fps / packet.time_base)
        return packets

    def close(self) -> None:
        """Finish the file and give it its name. Closing twice does nothing more."""
        if not self._open:
            return
        self._open = False
        try:
            with self._writing():
                self._container.mux(self._encode(None))
                self._container.close()
                self._file.finish()
        finally:
            self._file.discard()

    def discard(self) -> None:
        """Stop and remove the unfinished file."""
        if self._open:
            self._open = False
            with suppress(self._av.error.FFmpegError):  # what is missing is not wanted either
                self._container.close()
            self._file.discard()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Name the file and the remedy if FFmpeg cannot write."""
        try:
            yield
        except (self._av.error.FFmpegError, OSError) as error:
            raise OSError(
                f"{self.path} cannot be written ({getattr(error, 'strerror', '') or error}), and "
                "is left as it was; free some space, or give another place"
            ) from error

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: object, *failure: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


def fit_picture(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a picture scaled into width and height, black beside it; as it is if it fits."""
    import cv2

    width, height = size
    rows, columns = picture.shape[:2]
    if (columns, rows) == (width, height):
        return picture
    scale = min(width / columns, height / rows)
    inner = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    fitted = np.zeros((height, width, 3), np.uint8)
    top, left = (height - inner[1]) // 2, (width - inner[0]) // 2
    scaled = cv2.resize(picture, inner, interpolation=cv2.INTER_AREA)
    fitted[top : top + inner[1], left : left + inner[0]] = scaled
    return fitted
