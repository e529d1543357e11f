# SPDX-License-Identifier: Apache-2.0
"""Read frames from wherever they are: `open_video` opens every kind of source.

| Source | Means |
| --- | --- |
| ``clip.mp4`` | a video file, decoded by PyAV |
| ``folder/`` or ``folder/*.png`` | images in natural order of their names |
| ``frames/%04d.jpg`` | images numbered like that |
| ``picture.png`` | a single image |
| ``0`` or ``/dev/video0`` | the webcam of that index |
| ``rtsp://…``, ``http://…``, ``udp://…``, ``-`` | a stream; see `tracker_ros.io.streams` |
| ``bag:PATH:TOPIC`` | an image topic of a rosbag2 folder (sqlite3 or MCAP) |
| ``synthetic`` or ``synthetic:7`` | the built-in scene, with its seed |

Any of them may end in ``#frames=FIRST:STOP``, a stretch in Python's slice notation:
``clip.mp4#frames=100:250`` starts at frame 100 and gives 150 frames.
"""

from __future__ import annotations

import glob
import importlib
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tracker_ros.io.grey_range import GreyRange, parse_grey_range
from tracker_ros.io.image_decoder import is_cut_jpeg
from tracker_ros.io.image_encodings import scale_full_range
from tracker_ros.io.streams import Stream, Webcam
from tracker_ros.io.video_source import (
    DEFAULT_FPS,
    BadFrame,
    VideoSource,
    check_rate,
    import_av,
    no_frame,
    upright,
)

_MAX_LEFT_OUT = 2

MAX_PIXELS = 2**30
"""Pixels up to which OpenCV reads an image."""

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm"})
"""File endings that count as images in a folder."""

SCHEMES = {
    "bag": "tracker_ros.io.bag:BagImages",
    "synthetic": "tracker_ros.synthetic.scene_video:SceneSource",
}
"""Sources named by a prefix: their classes, imported when one is opened (rosbags, torch)."""


def open_video(
    source: str | Path,
    *,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    start: int = 0,
    count: int | None = None,
    mono16_range: str = "auto",
) -> VideoSource:
    """Open a video file, image folder or glob, webcam, rosbag2 topic or the synthetic scene.

    Args:
        source: See the table at the top of this module.
        fps: Overrides the rate; image folders have none of their own and take 30.
        size: Width and height of the synthetic scene or of raw frames on standard input, or
            wanted from a webcam; other sources keep their own.
        start: Frames to leave out at the beginning.
        count: Maximum number of frames, None for all. The synthetic scene, which has no end of
            its own, has 300 unless told otherwise.
        mono16_range: How grey of 16 bits becomes 8 bits: ``auto``, ``full`` or ``[low, high]``.

    Returns:
        The source; use it in a ``with`` block or call ``close`` when done.

    Raises:
        FileNotFoundError: The file or folder does not exist.
        ValueError: It exists but holds no frames, or an argument makes no sense.
        ImportError: The package that reads such a source is missing.
    """
    text, start, count = _split_stretch(str(source), start, count)
    parse_grey_range(mono16_range)
    check_rate(fps)
    if start < 0 or (count is not None and count < 1):
        raise ValueError(
            f"start is {start} and count {count}; start counts from 0 and count from 1"
        )
    opened: VideoSource
    scheme, colon, _ = text.partition(":")
    if scheme in SCHEMES and (colon or scheme == "synthetic"):
        module, _, name = SCHEMES[scheme].partition(":")
        source_class = getattr(importlib.import_module(module), name)
        opened = source_class(text, fps, size, None if count is None else start + count)
    elif camera := re.fullmatch(r"(?:/dev/video)?(\d+)", text):
        opened = Webcam(camera[1], fps, size)
    elif text == "-" or "://" in text:
        opened = Stream(text, fps, size)
    elif "%" in text and not Path(text).exists():
        opened = ImageFiles(text, _numbered_files(text), fps)
    elif glob.has_magic(text) and not Path(text).exists():
        opened = ImageFiles(text, glob.glob(text), fps)
    elif not Path(text).exists():
        raise FileNotFoundError(
            f"no video at {text!r}; give a video file, an image folder or glob, a webcam index, "
            "an address such as rtsp://…, bag:PATH:TOPIC or synthetic[:SEED]"
        )
    elif Path(text).is_dir():
        opened = ImageFiles(text, Path(text).iterdir(), fps)
    elif Path(text).suffix.lower() in IMAGE_SUFFIXES:
        opened = ImageFiles(text, [text], fps)
    else:
        opened = VideoFile(text, fps)
    opened.mono16_range = mono16_range
    return _Stretch(opened, start, count) if start or count is not None else opened


def source_path(source: str | Path) -> Path | None:
    """Return the file or folder that a source reads, or None where there is none."""
    text = _split_stretch(str(source), 0, None)[0]
    scheme, colon, rest = text.partition(":")
    if scheme == "bag" and colon:
        text = rest.partition(":")[0]
    elif re.fullmatch(r"(/dev/video)?\d+|-", text) or "://" in text or scheme in SCHEMES:
        return None
    path = Path(text)
    if not path.exists() and (glob.has_magic(text) or "%" in text):
        return path.parent
    return path


def _numbered_files(pattern: str) -> list[Path]:
    """Return the files that a pattern such as ``frames/%04d.jpg`` means, whatever they begin at.

    Raises ValueError if the pattern has no such place, or more than one.
    """
    path = Path(pattern)
    places = re.findall(r"%0?\d*d", path.name)
    if len(places) != 1 or "%" in pattern.replace(places[0], ""):
        raise ValueError(f"{pattern!r} is no pattern for numbers; write frames/%04d.jpg")
    digits = int(places[0].strip("%d") or 0)
    before, after = (re.escape(part) for part in path.name.split(places[0]))
    number = re.compile(rf"{before}(\d{{{max(digits, 1)},}}){after}")
    entries = path.parent.iterdir() if path.parent.is_dir() else ()
    return [entry for entry in entries if number.fullmatch(entry.name)]


def _split_stretch(source: str, start: int, count: int | None) -> tuple[str, int, int | None]:
    """Split ``#frames=FIRST:STOP`` off a source; further limits apply within that stretch."""
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
    """A part of another source; its frames and times count from 0."""

    def __init__(self, whole: VideoSource, start: int, count: int | None) -> None:
        self.name, self.fps, self.size = whole.name, whole.fps, whole.size
        self.live = whole.live
        self._whole = whole
        self._start, self._count = start, count
        self._begun: Iterator[tuple[float, np.ndarray | BadFrame]] | None = None
        if start == 0:
            self.first_box = whole.first_box
        if whole.frame_count is not None:
            if start >= whole.frame_count:
                whole.close()
                raise ValueError(
                    f"start is {start}, and {whole.name} has {whole.frame_count} frames; "
                    "start before the last one"
                )
            rest = whole.frame_count - start
            self.frame_count = rest if count is None else min(count, rest)

    def timed_frames(self, start: int = 0) -> Iterator[tuple[float, np.ndarray | BadFrame]]:
        frames, self._begun = self._begun or self._frames(), None
        begin: float | None = None
        for number, (time_s, image) in enumerate(frames):
            begin = time_s if begin is None else begin
            if number >= start:
                yield time_s - begin, image

    def first_image(self) -> np.ndarray:
        frames = self._begun or self._frames()
        taken: list[tuple[float, np.ndarray | BadFrame]] = []
        for time_s, image in frames:
            taken.append((time_s, image))
            if not isinstance(image, BadFrame):
                self._begun = itertools.chain(taken, frames)
                return image
        raise no_frame(self.name)

    def _frames(self) -> Iterator[tuple[float, np.ndarray | BadFrame]]:
        return itertools.islice(self._whole.timed_frames(self._start), self._count)

    def close(self) -> None:
        self._whole.close()


class VideoFile(VideoSource):
    """A video file decoded by PyAV, turned upright where its metadata says so.

    `fps` overrides the file's rate and the times of its frames. Raises ImportError without PyAV,
    ValueError if FFmpeg cannot read the file, or it has no frames.
    """

    def __init__(self, name: str, fps: float | None) -> None:
        self._av = av = import_av("reading video files")
        self.name = name
        self._keep_times = fps is None
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
        height, width = upright(first).shape[:2]
        self.size = (width, height)

    def timed_frames(self, start: int = 0) -> Iterator[tuple[float, np.ndarray | BadFrame]]:
        """Yield time and image of each frame; see `VideoSource`."""
        with self._av.open(self.name) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            begin = 0.0
            for number, frame in enumerate(self._decoded(container, stream)):
                if isinstance(frame, BadFrame):
                    if number >= start:
                        yield number / self.fps, frame
                    continue
                if number == 0:
                    begin = frame.time or 0.0
                if number >= start:
                    recorded = self._keep_times and frame.time is not None
                    time_s = frame.time - begin if recorded else number / self.fps
                    yield time_s, upright(frame)

    def _decoded(self, container: Any, stream: Any) -> Iterator[Any]:
        """Yield the frames, and a `BadFrame` for each that does not decode or is missing."""
        number = 0
        try:
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except self._av.error.EOFError:
                    continue
                except self._av.error.FFmpegError as error:
                    yield BadFrame(f"{self.name}: frame {number} does not decode ({error})")
                    number += 1
                    continue
                yield from frames
                number += len(frames)
        except self._av.error.FFmpegError as error:
            yield BadFrame(f"{self.name}: damaged behind frame {number} ({error})")
            return
        # A few frames before the first key frame may rightly be left out.
        if self.frame_count is not None and number < self.frame_count - _MAX_LEFT_OUT:
            yield BadFrame(
                f"{self.name}: ends after {number} of {self.frame_count} frames: was it cut?"
            )


class ImageFiles(VideoSource):
    """Images of one size in natural order (``2.png`` before ``10.png``).

    Paths without an image's ending are left out. Raises ValueError if there is no image among
    them, or none can be read.
    """

    def __init__(self, name: str, files: Iterable[str | Path], fps: float | None) -> None:
        self.name = name
        self.files = sort_images(files)
        if not self.files:
            raise ValueError(
                f"no images in {name!r}; expected files ending in "
                f"{', '.join(sorted(IMAGE_SUFFIXES))}"
            )
        self.fps = fps or DEFAULT_FPS
        self.size = self._first_size()
        self.frame_count = len(self.files)

    def _first_size(self) -> tuple[int, int]:
        """Return width and height of the first image that can be read."""
        failure: ValueError | None = None
        for file in self.files:
            try:
                height, width = read_image(file).shape[:2]
            except ValueError as error:
                failure = failure or error
            else:
                return width, height
        assert failure is not None
        raise failure

    def timed_frames(self, start: int = 0) -> Iterator[tuple[float, np.ndarray | BadFrame]]:
        """Yield time and image of each frame; see `VideoSource`."""
        grey = GreyRange(self.mono16_range)
        for number, file in enumerate(self.files[start:], start):
            try:
                yield number / self.fps, read_image(file, grey)
            except ValueError as error:
                yield number / self.fps, BadFrame(f"frame {number}: {error}")


def sort_images(files: Iterable[str | Path]) -> list[Path]:
    """Return the image files among some paths, in natural order; hidden ones are left out."""
    paths = (path for path in map(Path, files) if not path.name.startswith("."))
    images = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]
    return sorted(images, key=lambda file: natural_key(file.name))


def natural_key(name: str) -> list[Any]:
    """Return a sort key that orders numbers inside names by value: ``f2`` before ``f10``."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def read_image(path: Path, grey: GreyRange | None = None) -> np.ndarray:
    """Read an image file as RGB (H, W, 3) uint8, turned upright where its metadata says so.

    Grey of 16 bits becomes 8 bits by the image's own range, unless another is given. Raises
    ValueError if OpenCV cannot read it, or it was cut.
    """
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    if is_cut_jpeg(content):
        raise ValueError(f"{str(path)!r} is a JPEG without its end: it was cut")
    try:
        flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR
        image = cv2.imdecode(content, flags) if content.size else None
    except (cv2.error, MemoryError) as error:  # more pixels than OpenCV or the memory takes
        reason = str(getattr(error, "err", "") or "it needs more memory than there is")
        raise ValueError(
            f"{str(path)!r} is not an image that OpenCV can read ({reason}); give one of at most "
            f"{MAX_PIXELS} pixels"
        ) from error
    if image is None:
        raise ValueError(f"{str(path)!r} is not an image that OpenCV can read")
    if image.dtype == np.uint16:
        of_grey = (grey or GreyRange()).to_eight_bits
        image = of_grey(image) if image.ndim == 2 else scale_full_range(image)
    if image.dtype != np.uint8:
        raise ValueError(f"{str(path)!r} holds {image.dtype}, expected pixels of 8 or 16 bits")
    code = cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(image, code))
