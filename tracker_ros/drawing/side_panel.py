# SPDX-License-Identifier: Apache-2.0
"""Put a panel beside a frame: the response map and the target close up."""

from __future__ import annotations

import cv2
import numpy as np

from tracker_ros.drawing.text import INK, PAPER, DrawingSizes, blend_text
from tracker_ros.geometry import Box

_EMPTY = (34, 38, 46)


def place_beside(
    frame_rgb: np.ndarray,
    score_rgb: np.ndarray | None,
    target_rgb: np.ndarray | None = None,
) -> np.ndarray:
    """Put a dark panel to the right of a frame: the response map, below it the target close up.

    The panel is always there, so that all frames of a video have one size.

    Args:
        frame_rgb: (H, W, 3) uint8.
        score_rgb: (h, w, 3) uint8 picture of the response map, or None for an empty place.
        target_rgb: (h, w, 3) uint8 close-up, see `close_up`, or None for an empty place.

    Returns:
        (H, W + panel, 3) uint8, RGB; the panel is about a third of the frame's width.
    """
    height, width = frame_rgb.shape[:2]
    sizes = DrawingSizes.for_image(height, width)
    panel_width = max(48, min(width // 3, height // 2))
    panel = np.empty((height, panel_width, 3), np.uint8)
    panel[:] = INK
    left, top = sizes.margin, sizes.margin
    title_height = sizes.text + sizes.margin
    side = (height - top) // 2 - title_height - sizes.margin
    side = max(1, min(panel_width - 2 * left, side))
    for title, picture in (("response", score_rgb), ("target", target_rgb)):
        blend_text(panel, title, (left, top), sizes.text, PAPER)
        top += title_height
        place = panel[top : top + side, left : left + side]
        if picture is None:
            place[:] = _EMPTY
        else:
            size = (place.shape[1], place.shape[0])
            place[:] = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
        top += side + sizes.margin
    return np.concatenate([frame_rgb, panel], axis=1)


def close_up(
    image_rgb: np.ndarray,
    box: Box,
    side: int = 256,
    context: float = 1.3,
) -> np.ndarray | None:
    """Cut out the square around a box.

    Args:
        image_rgb: (H, W, 3) uint8.
        box: x, y, w, h in pixels.
        side: Width and height of the result in pixels.
        context: Side of the square cut out, in multiples of the box's longer side.

    Returns:
        (side, side, 3) uint8, dark where the square leaves the image; None for a box that is
        not finite or empty.
    """
    x, y, w, h = box
    if not np.isfinite(box).all() or w <= 0 or h <= 0:
        return None
    scale = side / (context * max(w, h))
    shift_x, shift_y = side / 2 - scale * (x + w / 2), side / 2 - scale * (y + h / 2)
    to_output = np.array([[scale, 0.0, shift_x], [0.0, scale, shift_y]])
    return cv2.warpAffine(
        image_rgb, to_output, (side, side), flags=cv2.INTER_LINEAR, borderValue=_EMPTY
    )
