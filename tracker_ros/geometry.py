# SPDX-License-Identifier: Apache-2.0
"""Box formats and their conversions; the only place where they are converted.

A box is `(x, y, w, h)`: left, top, width, height, floats in pixels of the full image. Other
layouts appear only at the edges of a network and carry their name: `cxcywh` (centre and size) and
`xyxy` (two corners). Functions named `<from>_to_<to>` work on arrays whose last axis has length 4;
they use only indexing and arithmetic, so NumPy arrays and torch tensors both do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Box = tuple[float, float, float, float]


def _join(like: Any, parts: list[Any]) -> Any:
    """Stack `parts` on a new last axis with the library that `like` belongs to."""
    if isinstance(like, np.ndarray):
        return np.stack(parts, axis=-1)
    import torch

    return torch.stack(parts, dim=-1)


def xywh_to_cxcywh(boxes: Any) -> Any:
    """Convert (..., 4) left, top, width, height to centre x, centre y, width, height."""
    x, y, w, h = (boxes[..., i] for i in range(4))
    return _join(boxes, [x + 0.5 * w, y + 0.5 * h, w, h])


def cxcywh_to_xywh(boxes: Any) -> Any:
    """Convert (..., 4) centre x, centre y, width, height to left, top, width, height."""
    cx, cy, w, h = (boxes[..., i] for i in range(4))
    return _join(boxes, [cx - 0.5 * w, cy - 0.5 * h, w, h])


def xywh_to_xyxy(boxes: Any) -> Any:
    """Convert (..., 4) left, top, width, height to left, top, right, bottom."""
    x, y, w, h = (boxes[..., i] for i in range(4))
    return _join(boxes, [x, y, x + w, y + h])


def cxcywh_to_xyxy(boxes: Any) -> Any:
    """Convert (..., 4) centre x, centre y, width, height to left, top, right, bottom."""
    cx, cy, w, h = (boxes[..., i] for i in range(4))
    return _join(boxes, [cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w, cy + 0.5 * h])


def tight_box(mask: np.ndarray) -> Box:
    """Return `(x, y, w, h)` of the smallest box around a mask (H, W) that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = float(columns[0]), float(rows[0])
    return x, y, float(columns[-1]) + 1.0 - x, float(rows[-1]) + 1.0 - y


def clip_box(box: Sequence[float], height: int, width: int, margin: float = 0.0) -> Box:
    """Clip one xywh box so that at least `margin` pixels of it stay inside the image.

    Width and height come out at least `margin`, so a target thinner than that is widened. Source:
    OSTrack `lib/utils/box_ops.py`, `clip_box`.
    """
    x, y, w, h = box
    left = min(max(0.0, x), width - margin)
    top = min(max(0.0, y), height - margin)
    right = min(max(margin, x + w), float(width))
    bottom = min(max(margin, y + h), float(height))
    return (left, top, max(margin, right - left), max(margin, bottom - top))


def scale_box(box: Sequence[float], old: tuple[int, int], new: tuple[int, int]) -> Box:
    """Return a box in an image of another size that shows the same; sizes are height and width."""
    x, y, w, h = box
    down, across = new[0] / old[0], new[1] / old[1]
    return (x * across, y * down, w * across, h * down)


def ious(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the intersection over union of xywh boxes (..., 4) row by row, in [0, 1].

    A box that is not finite or is empty overlaps with nothing.
    """
    corners_a, corners_b = xywh_to_xyxy(a), xywh_to_xyxy(b)
    near = np.maximum(corners_a[..., :2], corners_b[..., :2])
    far = np.minimum(corners_a[..., 2:], corners_b[..., 2:])
    shared = np.clip(far - near, 0.0, None).prod(-1)
    areas = np.clip(a[..., 2:], 0.0, None).prod(-1) + np.clip(b[..., 2:], 0.0, None).prod(-1)
    union = areas - shared
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.minimum(shared / union, 1.0)  # of equal boxes it may round to more
    return np.where(np.isfinite(ratio) & (union > 0.0), ratio, 0.0)


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the intersection over union of two xywh boxes; see `ious`."""
    return float(ious(np.asarray(a, np.float64), np.asarray(b, np.float64)))


def visible_extent(box: Sequence[float], height: int, width: int) -> tuple[float, float]:
    """Return width and height of what an image shows of an xywh box; not positive for nothing."""
    x, y, w, h = box
    return min(x + w, float(width)) - max(x, 0.0), min(y + h, float(height)) - max(y, 0.0)


class BoxOutsideImageError(ValueError):
    """A box lies outside the image, or too much of it does."""


def parse_box(box: Any) -> Box:
    """Return four floats `(x, y, w, h)` from whatever holds four numbers in a clear order.

    Accepted are sequences, arrays and torch tensors of shape (4,), or of (1, 4) and the like; the
    numbers may be text, and the whole may be one text with commas or spaces between the numbers.

    Raises ValueError if it is anything else.
    """
    if box is None:
        raise ValueError("box is None; give x, y, w, h in pixels")
    values = box.replace(",", " ").split() if isinstance(box, str) else box
    if hasattr(values, "tolist"):  # of NumPy or torch
        values = values.tolist()
    while isinstance(values, Sequence) and len(values) == 1 and _is_list(values[0]):
        values = values[0]
    if _is_list(values) and all(_is_list(value) and len(value) == 1 for value in values):
        values = [value[0] for value in values]  # a column
    if not _is_list(values):
        raise ValueError(f"box {box!r} is no list of numbers; give x, y, w, h in pixels")
    if any(_is_list(value) for value in values):
        raise ValueError(
            f"box {box!r} holds lists; give x, y, w, h as four numbers (of two corners: x1, y1, "
            "x2 - x1, y2 - y1; of a rotated box: cv2.boundingRect of its cv2.boxPoints)"
        )
    try:
        x, y, w, h = (float(value) for value in values)
    except (TypeError, ValueError) as error:
        what = f"has {len(values)} numbers" if len(values) != 4 else "has something else in it"
        raise ValueError(f"box {box!r} {what}; expected four numbers: x, y, w, h") from error
    return x, y, w, h


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def check_box_size(box: Any, min_side: float = 1.0) -> Box:
    """Return a box `(x, y, w, h)` as four floats if it can be used on some image.

    Raises ValueError if it is not four finite numbers (see `parse_box`), or smaller than
    `min_side` pixels.
    """
    x, y, w, h = parse_box(box)
    values = [x, y, w, h]
    if not all(math.isfinite(v) for v in values):
        raise ValueError(f"box {values} is not finite; expected x, y, w, h in pixels")
    if w < min_side or h < min_side or max(values) <= 1.0:
        raise ValueError(
            f"box {values} is {w:g} x {h:g} px; expected a width and height of at least "
            f"{min_side:g} px ({_advice_on_small_box(x, y, w, h)})"
        )
    return x, y, w, h


def _advice_on_small_box(x: float, y: float, w: float, h: float) -> str:
    """Return what probably went wrong with a box that is too small."""
    if all(0.0 <= value <= 1.0 for value in (x, y, w, h)) and max(x, y, w, h) > 0.0:
        return (
            "these look like fractions of the image: multiply x and w by its width, y and h by "
            "its height"
        )
    if w < 0.0 or h < 0.0:
        left, top = min(x, x + w), min(y, y + h)
        return f"drawn from the other corner it is {left:g}, {top:g}, {abs(w):g}, {abs(h):g}"
    return "draw a larger box; the last two numbers are no second corner"


def _looks_like_corners(box: Box, height: int, width: int) -> bool:
    """Whether the last two numbers of an xywh box are probably its lower right corner.

    True if it sticks out of the image at both sides and is mostly outside, and as two corners it
    would lie inside.
    """
    x, y, w, h = box
    if not (0.0 <= x < w <= width and 0.0 <= y < h <= height and x + w > width and y + h > height):
        return False
    return (width - x) * (height - y) < 0.5 * w * h


def check_box(
    box: Any,
    height: int,
    width: int,
    *,
    min_side: float = 1.0,
    min_visible: float = 0.0,
    max_ratio: float = 4.0,
    slack: float = 0.0,
) -> Box:
    """Return a box `(x, y, w, h)` in pixels as four floats if a tracker can start on it.

    Sides and visible sides have a minimum, pixels; width and height a maximum relative to the
    image's, which may be exceeded by `slack` pixels. Raises ValueError as `check_box_size`, or if
    it is too large for the image; BoxOutsideImageError if too little of it is inside the image, or
    it looks like two corners.
    """
    values = x, y, w, h = check_box_size(box, min_side)
    text = f"box {list(values)} (centre {x + w / 2:g}, {y + h / 2:g})"
    if w > max_ratio * width + slack or h > max_ratio * height + slack:
        raise ValueError(
            f"{text} is too large for the image of {width} x {height} px; "
            "expected a box around one object"
        )
    inside_w, inside_h = visible_extent(values, height, width)
    if _looks_like_corners(values, height, width):
        raise BoxOutsideImageError(
            f"{text} is mostly outside the image of {width} x {height} px; these look like x1, "
            f"y1, x2, y2: give {x:g}, {y:g}, {w - x:g}, {h - y:g}"
        )
    if min(inside_w, inside_h) <= 0.0:
        raise BoxOutsideImageError(
            f"{text} does not overlap the image of {width} x {height} px; "
            "expected pixel coordinates of that very image"
        )
    if min(inside_w, inside_h) < min_visible:
        raise BoxOutsideImageError(
            f"{text} has only {inside_w:g} x {inside_h:g} px inside the image of "
            f"{width} x {height} px; expected at least {min_visible:g} x {min_visible:g}"
        )
    return values


def visible(annotated: np.ndarray) -> np.ndarray:
    """Return (N,) bool: which frames have a target, a finite box of positive width and height."""
    annotated = np.asarray(annotated, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return np.isfinite(annotated).all(1) & (annotated[:, 2] > 0) & (annotated[:, 3] > 0)
