# SPDX-License-Identifier: Apache-2.0
"""Read frames out of a folder of videos, for trackers that learn from unlabelled video.

The folder holds video files, folders of frames in the order of their names (as YouTube-VOS's and
DAVIS's `JPEGImages`), or both, at any depth. Lengths are found at the start, frames when they are
drawn. A video file is decoded from its beginning up to the frames that are wanted, so long videos
are best cut or unpacked before.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tracker_ros.io.sources import IMAGE_SUFFIXES, VideoFile, read_image, sort_images
from tracker_ros.io.video_source import BadFrame
from tracker_ros.synthetic.footage import HEIGHT, Frames, with_shorter_side
from tracker_ros.synthetic.moving_scenes import FrameConfig

VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".avi", ".mov", ".webm", ".mpg", ".mpeg", ".m4v"})


def find_videos(path: str, config: FrameConfig) -> list[Frames]:
    """Return all videos in a folder that are long enough for runs, in the order of their names.

    Raises FileNotFoundError if there is no such folder, or no such video in it.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"videos: no folder {str(root)!r}; set the source's path")
    side = max(HEIGHT, config.size)
    found = [video for video in _videos_in(root, side) if len(video) >= config.frames]
    if not found:
        raise FileNotFoundError(
            f"videos: no video or folder of at least {config.frames} frames in {str(root)!r}"
        )
    return found


def _videos_in(folder: Path, side: int) -> Iterator[Frames]:
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    images = [entry for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES]
    if images:
        yield ImageFolder(images, side)
    for entry in entries:
        if entry.is_dir():
            yield from _videos_in(entry, side)
        elif entry.suffix.lower() in VIDEO_SUFFIXES:
            yield VideoFrames(entry, side)


class ImageFolder:
    """Frames that are image files; `side` is the shorter side they are resized to, pixels."""

    def __init__(self, images: list[Path], side: int) -> None:
        self._images, self._side = sort_images(images), side

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, numbers: list[int]) -> Tensor:
        """See `Frames`."""
        return _stacked([read_image(self._images[number]) for number in numbers], self._side)


class VideoFrames:
    """Frames of a video file; `side` is the shorter side they are resized to, pixels."""

    def __init__(self, path: Path, side: int) -> None:
        self._video, self._side = VideoFile(str(path), None), side
        count = self._video.frame_count
        self._count = sum(1 for _ in self._video.timed_frames()) if count is None else count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, numbers: list[int]) -> Tensor:
        """See `Frames`; in place of a frame that cannot be read comes the one before it.

        Raises ValueError if none can be read.
        """
        wanted, found = set(numbers), {}
        latest: np.ndarray | None = None
        for number, (_, image) in enumerate(self._video.timed_frames()):
            latest = latest if isinstance(image, BadFrame) else image
            if number in wanted and latest is not None:
                found[number] = latest
            if number >= max(numbers):
                break
        if latest is None:
            raise ValueError(f"{self._video.name}: no frame up to {max(numbers)} can be read")
        return _stacked([found.get(number, latest) for number in numbers], self._side)


def _stacked(frames: list[np.ndarray], side: int) -> Tensor:
    small = [with_shorter_side(frame, side) for frame in frames]
    return torch.from_numpy(np.stack(small))
