# SPDX-License-Identifier: Apache-2.0
"""Catching up from the frame that was selected on to the newest one."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from tracker_ros.frame_buffer import StampedFrame

__all__ = ["Replay"]

T = TypeVar("T")

_SHORT_S = 0.5


@dataclass
class Replay:
    """How far a target has come.

    Attributes:
        place_ns: Stamp of the last frame it has seen.
        step_s: Seconds that a step takes.
        began: When the replay began, by the monotonic clock.
    """

    place_ns: int
    step_s: float
    began: float = field(default_factory=time.monotonic)

    def choose(self, frames: Sequence[StampedFrame[T]]) -> StampedFrame[T] | None:
        """The next frame to track, and take it as seen.

        If all of them can be tracked within half a second, none is left out. Else frames are
        left out so that each step moves on through the recording at least twice as fast as the
        time it takes: the replay ends however slow the model is and however fast the camera.

        Args:
            frames: Those that came after `place_ns`.

        Returns:
            One of them, the last one when the replay ends with it; None if there are none.
        """
        if not frames:
            return None
        interval_s = (frames[-1].stamp_ns - self.place_ns) / len(frames) / 1e9
        replayed_s = time.monotonic() - self.began
        stride = 1
        if replayed_s + len(frames) * self.step_s > _SHORT_S:
            stride = max(1, math.ceil(2.0 * self.step_s / max(interval_s, 1e-6)))
        chosen = frames[min(stride, len(frames)) - 1]
        self.place_ns = chosen.stamp_ns
        return chosen
