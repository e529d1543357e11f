# SPDX-License-Identifier: Apache-2.0
"""Draws images with a target for trackers that are timed, and for graphs that are checked."""

from __future__ import annotations

import numpy as np

from tracker_ros.geometry import Box

_TILE = 8
_MIN_TILES = 8


def example_image(
    height: int, width: int, seed: int = 0, moved: tuple[int, int] = (0, 0)
) -> tuple[np.ndarray, Box]:
    """Draw a dim mosaic with a bright one in it, which trackers find.

    Args:
        height: In pixels.
        width: In pixels.
        seed: Decides colours, and place and size of the bright mosaic. Equal arguments give equal
            images.
        moved: Pixels by which the bright mosaic is moved to the right and down.

    Returns:
        RGB uint8 (height, width, 3), and the box of the bright mosaic, (x, y, w, h) in pixels.
    """
    generator = np.random.default_rng(seed)
    rows, columns = (max(_MIN_TILES, -(-side // _TILE)) for side in (height, width))
    scene = generator.integers(30, 110, (rows, columns, 3)).repeat(_TILE, 0).repeat(_TILE, 1)
    h, w = (int(tiles * generator.uniform(0.2, 0.3)) for tiles in (rows, columns))
    target = generator.integers(140, 256, (h, w, 3)).repeat(_TILE, 0).repeat(_TILE, 1)
    top, left = (
        _TILE * int(tiles * generator.uniform(0.3, 0.45)) + shift
        for tiles, shift in ((rows, moved[1]), (columns, moved[0]))
    )
    scene[top : top + _TILE * h, left : left + _TILE * w] = target
    box = (float(left), float(top), float(_TILE * w), float(_TILE * h))
    return scene[:height, :width].astype(np.uint8), box
