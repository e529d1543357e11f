# SPDX-License-Identifier: Apache-2.0
"""Pictures of what TrDiMP saw and computed, for `TrackResult.views`."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from tracker_ros.geometry import Box
from tracker_ros.tracker import View

_CELL = 96
_SHOWN = 5


class Proposals(NamedTuple):
    """Boxes that were refined in a patch.

    Attributes:
        starts: (P, 4) float32 xywh, pixels of the patch.
        refined: (P, 4) the same afterwards; None if none could be used.
        overlaps: (P,) their predicted IoU, from -1 to 1 as the network is trained.
    """

    starts: np.ndarray
    refined: np.ndarray | None
    overlaps: np.ndarray


def as_picture(patch: np.ndarray) -> np.ndarray:
    """(3, S, S) in 0..255 -> (S, S, 3) uint8 RGB."""
    array = patch.round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    return np.ascontiguousarray(array)


def as_box(box: np.ndarray) -> Box:
    """Return a box of plain numbers."""
    x, y, w, h = (float(value) for value in box)
    return (x, y, w, h)


def as_heat(values: np.ndarray) -> np.ndarray:
    """Stretch a map (h, w) to [0, 1]; of a constant one, cut the value to that range."""
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-6:
        return np.clip(values, 0, 1).astype(np.float32)
    return ((values - low) / (high - low)).astype(np.float32)


def contact_sheet(patches: np.ndarray, boxes: np.ndarray) -> View:
    """Return the views of the first image, (N, 3, S, S) in 0..255, side by side with boxes.

    Boxes are (N or more, 4) xywh in pixels of each patch; those without a patch are left out.
    """
    columns = math.ceil(math.sqrt(len(patches)))
    rows = math.ceil(len(patches) / columns)
    sheet = np.zeros((rows * _CELL, columns * _CELL, 3), np.uint8)
    scale = _CELL / patches.shape[-1]
    shown = []
    for number, patch in enumerate(patches):
        top, left = (index * _CELL for index in divmod(number, columns))
        small = cv2.resize(as_picture(patch), (_CELL, _CELL), interpolation=cv2.INTER_AREA)
        sheet[top : top + _CELL, left : left + _CELL] = small
        x, y, w, h = (float(value) * scale for value in boxes[number])
        shown.append(((x + left, y + top, w, h), ""))
    return View("first image", sheet, boxes=tuple(shown))


def proposal_view(crop: np.ndarray, proposals: Proposals) -> View:
    """Return a crop (S, S, 3) with the refined boxes that fit best and their predicted IoU."""
    boxes = proposals.starts if proposals.refined is None else proposals.refined
    usable = np.isfinite(boxes).all(1) & np.isfinite(proposals.overlaps)
    best = np.argsort(np.where(usable, -proposals.overlaps, np.inf), kind="stable")[:_SHOWN]
    # The worst first, so that the best is drawn over it.
    shown = [
        (as_box(boxes[i]), f"{(float(proposals.overlaps[i]) + 1) / 2:.2f}")
        for i in best[::-1]
        if usable[i]
    ]
    return View("boxes and their IoU", crop, boxes=tuple(shown))
