# SPDX-License-Identifier: Apache-2.0
"""What every source of frames is.

Reading frames from wherever they are: one function, `open_video`, for every kind of source.

| Source | Means |
| --- | --- |
| ``clip.mp4`` | a video file (PyAV, or OpenCV where PyAV is missing) |
| ``folder/`` or ``folder/*.png`` | images in natural order of their names |
| ``0`` | the webcam of that index |
| ``bag:PATH:TOPIC`` | an image topic of a rosbag2 folder (sqlite3 or MCAP) |
| ``synthetic`` or ``synthetic:7`` | the built-in scene, with its seed |

Any of them may end in ``#frames=FIRST:STOP``, a stretch in Python's slice notation:
``clip.mp4#frames=100:250`` starts at frame 100 and gives 150 frames.

Frames of video files and webcams, decoded by PyAV or OpenCV.
"""

from __future__ import annotations

import glob
import itertools
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from tracker_ros.geometry import Box

__all__ = [
    "DEFAULT_FPS",
    "IMAGE_SUFFIXES",
    "VideoSource",
    "Webcam",
    "natural_key",
    "open_video",
    "open_video_file",
    "read_image",
    "synthetic_seed",
]

DEFAULT_FPS = 30.0
"""Rate of a source that has none of its own, frames per second."""


class VideoSource(ABC):
    """Frames in order, with what is known of them beforehand.

    Iterate to get RGB ``uint8`` arrays of shape (H, W, 3). Every source but a webcam starts
    again with each new iteration. ``len()`` gives the number of frames and raises TypeError
    where it is not known; ``frame_count`` is the same as an attribute, None where not known.

    Attributes:
        name: The source as given.
        fps: Frames per second at which it was made, or should be shown.
        size: Width and height in pixels.
        frame_count: Number of frames, or None.
        first_box: The target's box x, y, w, h in the first frame, where the source knows it.
    """

    name: str
    fps: float
    size: tuple[int, int]
    frame_count: int | None = None
    first_box: Box | None = None

    @abstractmethod
    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the frames, (H, W, 3) uint8 RGB."""

    def frames_from(self, start: int) -> Iterator[np.ndarray]:
        """Yield the frames from number ``start`` on, skipping the earlier ones cheaply."""
        return itertools.islice(iter(self), start, None)

    def __len__(self) -> int:
        if self.frame_count is None:
            raise TypeError(f"the number of frames of {self.name} is not known beforehand")
        return self.frame_count

    def __bool__(self) -> bool:
        return True

    def close(self) -> None:  # noqa: B027  (most sources hold nothing open)
        """Free what the source holds; it gives no frames afterwards."""

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm"})
"""File endings that count as images in a folder."""


def open_video(
    source: str | Path,
    *,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    start: int = 0,
    count: int | None = None,
) -> VideoSource:
    """Open a video file, image folder or glob, webcam, rosbag2 topic or the synthetic scene.

    Args:
        source: See the table at the top of this module.
        fps: Overrides the rate; image folders have none of their own and take 30.
        size: Width and height of the synthetic scene, or wanted of a webcam; other sources
            keep their own.
        start: Frames to leave out at the beginning.
        count: Frames to give at most, None for all. The synthetic scene, which has no end of
            its own, takes 300 when not told.

    Returns:
        The source; use it in a ``with`` block or call ``close`` when done.

    Raises:
        FileNotFoundError: If the file or folder is not there.
        ValueError: If it is there and holds no frames, or an argument makes no sense.
    """
    text, start, count = _split_stretch(str(source), start, count)
    if fps is not None and not fps > 0:
        raise ValueError(f"fps is {fps}; give a rate above 0")
    if start < 0 or (count is not None and count < 1):
        raise ValueError(
            f"start is {start} and count {count}; start counts from 0 and count from 1"
        )
    opened: VideoSource
    if text == "synthetic" or text.startswith("synthetic:"):
        opened = _SyntheticScene(text, fps, size, None if count is None else start + count)
    elif text.startswith("bag:"):
        from tracker_ros.io.bag import BagImages

        opened = BagImages(text, fps)
    elif text.isdigit():
        opened = Webcam(text, fps, size)
    elif glob.has_magic(text) and not Path(text).exists():
        opened = _ImageFiles(text, [Path(found) for found in glob.glob(text)], fps)
    elif not Path(text).exists():
        raise FileNotFoundError(
            f"no video at {text!r}; give a video file, an image folder or glob, a webcam index, "
            "bag:PATH:TOPIC or synthetic[:SEED]"
        )
    elif Path(text).is_dir():
        opened = _ImageFiles(text, list(Path(text).iterdir()), fps)
    else:
        opened = open_video_file(text, fps)
    return _Stretch(opened, start, count) if start or count is not None else opened


def _split_stretch(source: str, start: int, count: int | None) -> tuple[str, int, int | None]:
    """Take ``#frames=FIRST:STOP`` off a source; further limits apply within that stretch."""
    match = re.fullmatch(r"(.*)#frames=(\d*):(\d*)", source)
    if match is None:
        return source, start, count
    first = int(match[2] or 0)
    if match[3]:
        length = int(match[3]) - first - start
        if length < 1:
            raise ValueError(
                f"{source!r} names no frames; write FIRST:STOP with STOP behind FIRST"
            )
        count = length if count is None else min(count, length)
    return match[1], first + start, count


class _Stretch(VideoSource):
    """A part of another source."""

    def __init__(self, whole: VideoSource, start: int, count: int | None) -> None:
        self.name, self.fps, self.size = whole.name, whole.fps, whole.size
        self._whole = whole
        self._start = start
        if start == 0:
            self.first_box = whole.first_box
        self._stop = None if count is None else start + count
        if whole.frame_count is not None:
            if start >= whole.frame_count:
                whole.close()
                raise ValueError(
                    f"start is {start}, and {whole.name} has {whole.frame_count} frames; "
                    "start before the last one"
                )
            stop = whole.frame_count if self._stop is None else self._stop
            self.frame_count = min(stop, whole.frame_count) - start

    def __iter__(self) -> Iterator[np.ndarray]:
        count = None if self._stop is None else self._stop - self._start
        return itertools.islice(self._whole.frames_from(self._start), count)

    def close(self) -> None:
        self._whole.close()


class _ImageFiles(VideoSource):
    """Images of one size in natural order (``2.png`` before ``10.png``)."""

    def __init__(self, name: str, files: list[Path], fps: float | None) -> None:
        images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
        if not images:
            raise ValueError(
                f"no images in {name!r}; expected files ending in "
                f"{', '.join(sorted(IMAGE_SUFFIXES))}"
            )
        self.name = name
        self.files = sorted(images, key=lambda file: natural_key(file.name))
        self.fps = fps or DEFAULT_FPS
        height, width = read_image(self.files[0]).shape[:2]
        self.size = (width, height)
        self.frame_count = len(self.files)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (read_image(file) for file in self.files)


class _SyntheticScene(VideoSource):
    """The built-in scene: a textured object over a moving background, by seed."""

    def __init__(
        self, name: str, fps: float | None, size: tuple[int, int] | None, frames: int | None
    ) -> None:
        self.name = name
        self.seed = synthetic_seed(name)
        self.fps = fps or DEFAULT_FPS
        self.size = size or (640, 480)
        self.frame_count = frames or 300
        self.first_box = next(self._scenes()).box

    def _scenes(self) -> Iterator[Any]:
        from tracker_ros.synthetic.scene_video import synthetic_video

        return iter(synthetic_video(self.seed, self.frame_count, self.size))

    def __iter__(self) -> Iterator[np.ndarray]:
        return (scene.image for scene in self._scenes())


def synthetic_seed(name: str) -> int:
    """The seed in ``synthetic:SEED``, 0 in ``synthetic`` alone.

    Raises:
        ValueError: The seed is not a whole number.
    """
    _, _, seed = name.partition(":")
    if seed and not seed.isdigit():
        raise ValueError(f"synthetic seed is {seed!r}; write a whole number: synthetic:7")
    return int(seed or 0)


def natural_key(name: str) -> list[Any]:
    """Sort key that orders numbers inside names by value: ``f2`` before ``f10``."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def read_image(path: Path) -> np.ndarray:
    """Read an image file as RGB.

    Args:
        path: A file in a format that OpenCV reads.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: If OpenCV cannot read it.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{str(path)!r} is not an image that OpenCV can read")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


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
