# SPDX-License-Identifier: Apache-2.0
"""Masks to start from.

MAST starts from a mask. Where only a box is given, it has to guess which part of it is the object.
An ellipse that fills the box covers 79 % of it. GrabCut (Rother, Kolmogorov, Blake, SIGGRAPH
2004), in OpenCV's form, separates the colours inside the box from those around it.
"""

from __future__ import annotations

import math

import numpy as np

from tracker_ros.geometry import Box

MAX_OBJECTS = 255
_GRABCUT_ROUNDS = 3
_GRABCUT_LEAST_SHARE = 0.1  # of the box; less is no segmentation
_GRABCUT_MARGIN = 0.5  # of the box, on each side, as a sample of the background


def check_labels(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a mask or label map as (height, width) uint8.

    A mask with a single value beside 0, such as 255, is one object.

    Raises ValueError for another shape or type, a negative label, more than 255 objects, or a
    label between 1 and the largest that is nowhere; the message says which.
    """
    mask = np.asarray(mask)
    if mask.shape != (height, width):
        raise ValueError(f"mask has shape {mask.shape}; expected {(height, width)}, as the image")
    if mask.dtype != bool and not np.issubdtype(mask.dtype, np.integer):
        raise ValueError(f"mask has dtype {mask.dtype}; expected bool or integer labels")
    found = np.unique(mask).astype(np.int64)
    if len(found) == 2 and found[0] == 0:
        return (mask != 0).astype(np.uint8)
    if found[0] < 0 or found[-1] > MAX_OBJECTS:
        raise ValueError(
            f"mask has labels from {found[0]} to {found[-1]}; expected 0 (background) to "
            f"{MAX_OBJECTS}"
        )
    missing = sorted(set(range(1, max(int(found[-1]), 1) + 1)) - set(found.tolist()))
    if missing:
        raise ValueError(
            f"mask has no pixel of label {missing[0]}; expected every label from 1 to the number "
            "of objects (True for a single one)"
        )
    return mask.astype(np.uint8)


def mask_of_box(image: np.ndarray, box: Box, shape: str) -> np.ndarray:
    """Return a mask, (H, W) bool, for the object in a box; at least one pixel is set.

    Args:
        image: RGB uint8 (H, W, 3); only "grabcut" looks at it.
        box: `(x, y, w, h)` in pixels, overlapping the image.
        shape: "ellipse", "rectangle" or "grabcut"; the last takes an ellipse where colours
            separate nothing.
    """
    height, width = image.shape[:2]
    if shape == "rectangle":
        return _rectangle(box, height, width)
    ellipse = _ellipse(box, height, width)
    return _grabcut(image, box, ellipse) if shape == "grabcut" else ellipse


def _rectangle(box: Box, height: int, width: int) -> np.ndarray:
    x, y, w, h = box
    mask = np.zeros((height, width), dtype=bool)
    left, top = min(max(round(x), 0), width - 1), min(max(round(y), 0), height - 1)
    mask[top : max(round(y + h), top + 1), left : max(round(x + w), left + 1)] = True
    return mask


def _ellipse(box: Box, height: int, width: int) -> np.ndarray:
    x, y, w, h = box
    across = (np.arange(width) + 0.5 - (x + w / 2)) / (w / 2)
    down = (np.arange(height) + 0.5 - (y + h / 2)) / (h / 2)
    mask = across**2 + down[:, None] ** 2 <= 1.0
    return mask if mask.any() else _rectangle(box, height, width)


def _grabcut(image: np.ndarray, box: Box, ellipse: np.ndarray) -> np.ndarray:
    import cv2

    height, width = image.shape[:2]
    x, y, w, h = box
    left, top = (max(0, math.floor(v - _GRABCUT_MARGIN * s)) for v, s in ((x, w), (y, h)))
    right = min(width, math.ceil(x + (1 + _GRABCUT_MARGIN) * w))
    bottom = min(height, math.ceil(y + (1 + _GRABCUT_MARGIN) * h))
    part = np.s_[top:bottom, left:right]
    inside = _rectangle(box, height, width)[part]
    guess = np.where(inside, cv2.GC_PR_BGD, cv2.GC_BGD).astype(np.uint8)
    guess[ellipse[part]] = cv2.GC_PR_FGD
    if inside.all():
        return ellipse  # nothing around to compare with
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cropped = np.ascontiguousarray(image[part][..., ::-1])
    cv2.setRNGSeed(0)
    unused = (0, 0, 1, 1)
    cv2.grabCut(cropped, guess, unused, *models, _GRABCUT_ROUNDS, cv2.GC_INIT_WITH_MASK)
    mask = np.zeros((height, width), dtype=bool)
    mask[part] = np.isin(guess, (cv2.GC_FGD, cv2.GC_PR_FGD))
    return mask if mask.sum() >= _GRABCUT_LEAST_SHARE * inside.sum() else ellipse
