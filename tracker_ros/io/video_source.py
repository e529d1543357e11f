# SPDX-License-Identifier: Apache-2.0
"""What every source of frames is: `VideoSource`, and frames that cannot be read."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np

from tracker_ros.geometry import Box

_LOG = logging.getLogger(__name__)

DEFAULT_FPS = 30.0
"""Rate of a source that has none of its own, frames per second."""

_RATES = 1e-6, 1e6


class BadFrame(ValueError):
    """A frame that a source has and that cannot be read; names the file and the frame's number."""


class VideoSource(ABC):
    """Frames in order, with what is known about them beforehand.

    Iterate to get RGB ``uint8`` arrays of shape (H, W, 3), or over `timed_frames` to get their
    times too. Every source except a webcam starts again with each new iteration. ``len()`` returns
    the number of frames and raises TypeError where it is not known; ``frame_count`` is the same as
    an attribute, None where not known.
    """

    name: str  # the source as given
    fps: float  # frames per second at which it was recorded, or should be shown
    size: tuple[int, int]  # width and height in pixels
    frame_count: int | None = None  # number of frames, or None
    # the target's box x, y, w, h in the first frame, where the source knows it
    first_box: Box | None = None
    live: bool = False  # whether frames come when they are taken, and reading waits for them
    # how grey of 16 bits becomes 8 bits; see `tracker_ros.io.grey_range`
    mono16_range: str = "auto"

    @abstractmethod
    def timed_frames(self, start: int = 0) -> Iterator[tuple[float, np.ndarray | BadFrame]]:
        """Yield time and image of each frame from `start` on, skipping earlier ones cheaply.

        The time is in seconds since frame 0, as recorded where the source knows it and else the
        frame's number divided by ``fps``; the image is (H, W, 3) uint8 RGB. A frame that cannot be
        read is a `BadFrame` instead, and the next ones follow.
        """

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the images; those that cannot be read are logged and left out."""
        for _, image in self.timed_frames():
            if isinstance(image, BadFrame):
                _LOG.warning("%s", image)
            else:
                yield image

    def first_image(self) -> np.ndarray:
        """Return the first image that can be read; the next iteration begins with it."""
        image = next(iter(self), None)
        if image is None:
            raise no_frame(self.name)
        return image

    def __len__(self) -> int:
        if self.frame_count is None:
            raise TypeError(f"the number of frames of {self.name} is not known beforehand")
        return self.frame_count

    def __bool__(self) -> bool:
        return True

    def close(self) -> None:  # noqa: B027  (most sources hold nothing open)
        """Release what the source holds; it gives no frames afterwards."""

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()


def no_frame(name: str) -> ValueError:
    """Return the error that a source of this name has no image that can be read."""
    return ValueError(f"{name} gave no frame; see whether it plays elsewhere")


def check_rate(fps: float | None) -> None:
    """Raise ValueError unless a rate in frames/s gives times that can be counted, or is None."""
    slowest, fastest = _RATES
    if fps is not None and not slowest <= fps <= fastest:
        raise ValueError(f"fps is {fps}; give a rate above 0, from {slowest:g} to {fastest:g}")


def upright(frame: Any) -> np.ndarray:
    """Return a decoded frame as RGB, turned by the quarter turns its metadata asks for."""
    image = frame.to_ndarray(format="rgb24")
    quarter_turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image


def import_av(purpose: str) -> Any:
    """Import and return PyAV; raises ImportError, which says what needs it, if it is missing."""
    try:
        import av
    except ImportError as error:
        raise ImportError(f"{purpose} needs PyAV ({error}): pip install av") from error
    return av
