# SPDX-License-Identifier: Apache-2.0
"""Bilinear interpolation between the places of a map, in NumPy's and torch's arrays."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from tracker_ros.arrays import Array, like, select

Neighbours = tuple[np.ndarray, np.ndarray, np.ndarray]
"""For each result along an axis: the place before, the place after, and the latter's share."""


def neighbours(place: np.ndarray, length: int) -> Neighbours:
    """Return the places around (n,) float32 places on an axis of a `length`; ends are repeated."""
    place = np.clip(place, np.float32(0), np.float32(length - 1))
    before = place.astype(np.int64)
    return before, np.minimum(before + 1, length - 1), place - before.astype(np.float32)


@lru_cache(maxsize=16)
def resized(length: int, size: int) -> Neighbours:
    """Return the neighbours for an axis that is resized, as torch places them.

    Both axes cover the same extent, from the edge of the first pixel to that of the last.
    """
    scale = np.float32(length / size)
    place = scale * (np.arange(size, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    return neighbours(place, length)


def interpolate(maps: Array, rows: Neighbours, columns: Neighbours) -> Array:
    """Interpolate (..., H, W) maps, first between columns. Returns (..., h, w)."""
    for axis, (before, after, share) in ((-1, columns), (-2, rows)):
        shares = like(share, maps)
        shares = shares if axis == -1 else shares[:, None]
        maps = between(select(maps, before, axis), select(maps, after, axis), shares)
    return maps


def between(first: Array, second: Array, share: Array) -> Array:
    """Return first * (1 - share) + second * share."""
    return first * (1 - share) + second * share
