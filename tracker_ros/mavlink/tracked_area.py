# SPDX-License-Identifier: Apache-2.0
"""The part of the image that a tracking command means."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tracker_ros.geometry import Box


def area_of_rectangle(params: Sequence[float], size: tuple[int, int]) -> Box:
    """Return the box ``(x, y, w, h)``, pixels, of MAV_CMD_CAMERA_TRACK_RECTANGLE.

    The parameters are left, top, right and bottom, each from 0 to 1; the size is the image's width
    and height. Raises ValueError if the rectangle is not inside the image, empty or the wrong way
    round.
    """
    left, top, right, bottom = params
    if not all(0.0 <= value <= 1.0 for value in params) or left >= right or top >= bottom:
        raise ValueError(
            f"rectangle {left:g} {top:g} {right:g} {bottom:g} cannot be tracked: expected left, "
            "top, right, bottom from 0 to 1, left < right and top < bottom"
        )
    width, height = size
    return left * width, top * height, (right - left) * width, (bottom - top) * height


def area_of_point(params: Sequence[float], size: tuple[int, int], least: float) -> Box:
    """Return the square around the point of MAV_CMD_CAMERA_TRACK_POINT, cut at the edges.

    The parameters are the point, from 0 to 1 in both directions, and its radius as a part of the
    image's width, which may be 0 or NaN; `least` is the square's least side as such a part. Raises
    ValueError if the point is not inside the image, or the radius out of range.
    """
    x, y, radius = params
    radius = 0.0 if math.isnan(radius) else radius
    if not all(0.0 <= value <= 1.0 for value in (x, y, radius)):
        raise ValueError(
            f"point {x:g} {y:g} with radius {radius:g} cannot be tracked: expected numbers from "
            "0 to 1"
        )
    width, height = size
    half = max(radius, least / 2) * width
    left, right = max(x * width - half, 0.0), min(x * width + half, float(width))
    top, bottom = max(y * height - half, 0.0), min(y * height + half, float(height))
    return left, top, right - left, bottom - top
