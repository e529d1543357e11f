# SPDX-License-Identifier: Apache-2.0
"""Times trackers on a fixed image, to choose the back end that follows a target fastest."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Mapping

import numpy as np

from tracker_ros.geometry import Box
from tracker_ros.tracker import Tracker

_SECONDS = 0.2
_FRAMES_PER_TURN = 3
_MIN_FRAMES = 4
_MIN_SIDE = 64
_TILE = 8


def seconds_per_frame(trackers: Mapping[str, Tracker]) -> dict[str, float]:
    """Return the median time that each tracker takes for a frame, in seconds.

    The trackers take turns for about 0.2 s each. They are copied first, so that none of them has
    a target afterwards.

    Args:
        trackers: By name; all follow the same target in the same image.
    """
    probes = {name: copy.copy(tracker) for name, tracker in trackers.items()}
    height, width = next(iter(trackers.values())).usual_size
    image, box = textured_image(max(height, _MIN_SIDE), max(width, _MIN_SIDE))
    for probe in probes.values():
        probe.initialize(image, box)
        probe.track(image)
    taken: dict[str, list[float]] = {name: [] for name in probes}
    end = time.perf_counter() + _SECONDS * len(probes)
    while time.perf_counter() < end or min(map(len, taken.values())) < _MIN_FRAMES:
        for name, probe in probes.items():
            for frame in range(_FRAMES_PER_TURN):
                start = time.perf_counter()
                probe.track(image)
                probe.update_model()
                # The threads of the tracker before may still spin during the first frame.
                if frame:
                    taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def textured_image(height: int, width: int) -> tuple[np.ndarray, Box]:
    """Draw an image with a target that trackers find; a lost target may take less work.

    Returns:
        A dim mosaic with a bright one in its middle, RGB uint8 (height, width, 3), and the box of
        the bright one, (x, y, w, h) in pixels. Equal sizes give equal images.
    """
    generator = np.random.default_rng(0)
    rows, columns = -(-height // _TILE), -(-width // _TILE)
    tiles = generator.integers(30, 110, (rows, columns, 3))
    top, left, h, w = rows * 3 // 8, columns * 3 // 8, max(2, rows // 4), max(2, columns // 4)
    tiles[top : top + h, left : left + w] = generator.integers(140, 256, (h, w, 3))
    image = tiles.repeat(_TILE, 0).repeat(_TILE, 1)[:height, :width].astype(np.uint8)
    return image, tuple(float(_TILE * tile) for tile in (left, top, w, h))  # type: ignore[return-value]
