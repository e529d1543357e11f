# SPDX-License-Identifier: Apache-2.0
"""What every source of frames is."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType

import numpy as np

from tracker_ros.boxes import Box

__all__ = ["DEFAULT_FPS", "VideoSource"]

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
