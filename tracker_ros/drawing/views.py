# SPDX-License-Identifier: Apache-2.0
"""Draw what trackers saw and computed, the `View`s of a result, as one sheet of pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from tracker_ros.drawing.overlay import TARGET_COLOURS, colour_map_score
from tracker_ros.drawing.text import INK, PAPER, RGB, blend_text
from tracker_ros.tracker import View

_MARGIN = 6
_TEXT = 12
_HEAT = 0.55
"""Share of the heat's colours where it covers a picture."""
_DARKENED = 0.25
_BOX: RGB = (255, 255, 255)


def draw_sheet(views: Sequence[View], width: int, height: int) -> np.ndarray:
    """Return a (height, width, 3) uint8 RGB sheet of views, each as large as fits.

    The sheet has this size whatever there is to show, so that the frames of a video have one size.
    """
    sheet = np.empty((height, width, 3), np.uint8)
    sheet[:] = INK
    if not views:
        return sheet
    aspects = [view.image.shape[1] / view.image.shape[0] for view in views]
    columns = _columns(len(views), width, height, sum(aspects) / len(aspects))
    rows = math.ceil(len(views) / columns)
    across, down = width // columns, height // rows
    for number, view in enumerate(views):
        row, column = divmod(number, columns)
        room = (across - 2 * _MARGIN, down - 2 * _MARGIN - _TEXT - 4)
        if min(room) < 8:
            break
        drawn = draw_view(view, *room)
        top = row * down + _MARGIN
        left = column * across + (across - drawn.shape[1]) // 2
        blend_text(sheet, view.title, (left, top), _TEXT, PAPER)
        top += _TEXT + 4
        sheet[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
    return sheet


def _columns(count: int, width: int, height: int, aspect: float) -> int:
    """Return the number of columns with which pictures of an aspect become largest."""

    def size(columns: int) -> float:
        rows = math.ceil(count / columns)
        return min(width / columns, (height / rows - _TEXT) * aspect)

    return max(range(1, count + 1), key=size)


def draw_view(view: View, width: int, height: int) -> np.ndarray:
    """Return one view, (h, w, 3) uint8 RGB, in its own aspect within a width and height."""
    scale = min(width / view.image.shape[1], height / view.image.shape[0])
    size = tuple(max(1, round(side * scale)) for side in view.image.shape[1::-1])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    picture = cv2.resize(view.image, size, interpolation=method)
    if view.kept is not None:
        kept = cv2.resize(view.kept.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        picture = np.where(kept[..., None] > 0, picture, (picture * _DARKENED).astype(np.uint8))
    if view.heat is not None:
        heat = colour_map_score(view.heat, (size[0], size[1]))
        picture = cv2.addWeighted(picture, 1 - _HEAT, heat, _HEAT, 0)
    picture = np.ascontiguousarray(picture)
    for number, ((x, y, w, h), text) in enumerate(view.boxes):
        last = number == len(view.boxes) - 1
        colour = _BOX if last else TARGET_COLOURS[number % len(TARGET_COLOURS)]
        corners = [round(v * scale) for v in (x, y, x + w, y + h)]
        cv2.rectangle(picture, tuple(corners[:2]), tuple(corners[2:]), colour, 1, cv2.LINE_AA)
        if text:
            left = min(max(corners[0], 0), max(size[0] - 4 * _TEXT, 0))
            top = min(max(corners[1] - _TEXT - 2, 0), max(size[1] - _TEXT, 0))
            blend_text(picture, text, (left, top), _TEXT, colour)
    for number, (x, y) in enumerate(view.points):
        if math.isfinite(x) and math.isfinite(y):
            _draw_point(picture, (round(x * scale), round(y * scale)), number)
    return picture


def _draw_point(picture: np.ndarray, place: tuple[int, int], number: int) -> None:
    colour = TARGET_COLOURS[number % len(TARGET_COLOURS)]
    cv2.circle(picture, place, 4, INK, -1, cv2.LINE_AA)
    cv2.circle(picture, place, 3, colour, -1, cv2.LINE_AA)
