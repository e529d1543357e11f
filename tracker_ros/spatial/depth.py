# SPDX-License-Identifier: Apache-2.0
"""The depth of a target in a depth image that also shows its background.

The mean of the depths in a box lies between target and background, where nothing is. The mode
does not: it is the depth that most pixels have. Pixels on its surface are then averaged robustly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tracker_ros.geometry import Box

Region = tuple[int, int, int, int]
"""Pixels ``left, top, right, bottom`` of an image; right and bottom are not part of it."""

_CENTRAL = 0.5
_MAX_SAMPLES = 2048
_MIN_SAMPLES = 8
_MIN_SHARE = 0.05
_BIN = 0.02
_SURFACE = 0.06
_RIVAL = 0.5
_SENSOR_NOISE = 0.005


@dataclass(frozen=True)
class DepthEstimate:
    """The depth of a target."""

    depth: float  # metres along the optical axis
    # metres squared: how much the pixels on the surface differ, and sensor noise of 0.5 % of the
    # depth
    variance: float


def target_region(
    box: Box, width: int, height: int, mask: np.ndarray | None = None
) -> Region | None:
    """Return the part of an image in which the depth of a target is looked for.

    It is the box for a target with a mask. Otherwise it is the central half of its width and
    height, which shows less background.

    Returns:
        None if that part is outside the image.
    """
    x, y, w, h = box
    share = 1.0 if mask is not None else _CENTRAL
    cx, cy, half_w, half_h = x + w / 2, y + h / 2, max(w * share, 2) / 2, max(h * share, 2) / 2
    left, top = max(0, math.floor(cx - half_w)), max(0, math.floor(cy - half_h))
    right = min(width, math.ceil(cx + half_w))
    bottom = min(height, math.ceil(cy + half_h))
    return (left, top, right, bottom) if left < right and top < bottom else None


def target_depth(
    depths: np.ndarray, mask: np.ndarray | None = None, expected: float | None = None
) -> DepthEstimate | None:
    """Return the depth of the surface that most pixels show.

    If another surface has at least half as many pixels, the one closer to ``expected`` is taken:
    something that passes in front of a target does not pull it forward.

    Args:
        depths: (H, W) metres, of `target_region`; not finite or not positive where unknown.
        mask: (H, W) bool, the target's pixels among them; None if unknown.
        expected: Depth that the target should have, metres; None if unknown.

    Returns:
        None if fewer than eight pixels, or than 5 % of them, have a depth.
    """
    samples = depths.ravel() if mask is None else depths[mask]
    count = samples.size
    with np.errstate(invalid="ignore"):
        samples = samples[(samples > 0) & (samples < np.inf)]
    if samples.size < max(_MIN_SAMPLES, _MIN_SHARE * count):
        return None
    # After the holes are gone, which may lie in a regular pattern.
    samples = samples[:: max(1, math.ceil(samples.size / _MAX_SAMPLES))]
    samples = samples.astype(np.float64)
    logs = np.log(samples)
    surface = samples[np.abs(logs - _mode(logs, expected)) < _SURFACE]
    depth = float(np.median(surface))
    spread = 1.4826 * float(np.median(np.abs(surface - depth)))
    return DepthEstimate(depth, spread**2 + (_SENSOR_NOISE * depth) ** 2)


def _mode(logs: np.ndarray, expected: float | None) -> float:
    """Return the most frequent logarithm of a depth, or a rival's that is closer to expected."""
    low = float(logs.min())
    places = ((logs - low) / _BIN).astype(np.intp)
    counts = np.bincount(places, minlength=int(places.max()) + 1).astype(np.float64)
    smooth = np.convolve(counts, [0.5, 1.0, 0.5], mode="same") if counts.size > 2 else counts
    best = int(smooth.argmax())
    if expected is not None and expected > 0:
        padded = np.concatenate(([0.0], smooth, [0.0]))
        peaks = np.flatnonzero(
            (smooth >= padded[:-2]) & (smooth >= padded[2:]) & (smooth >= _RIVAL * smooth[best])
        )
        wanted = (math.log(expected) - low) / _BIN - 0.5
        best = int(peaks[np.abs(peaks - wanted).argmin()])
    return low + (best + 0.5) * _BIN
