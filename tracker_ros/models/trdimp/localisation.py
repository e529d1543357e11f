# SPDX-License-Identifier: Apache-2.0
"""Where the target is: by the score map, and which boxes are refined and chosen there.

Papers: Danelljan et al., "ATOM", CVPR 2019 (https://arxiv.org/abs/1811.07628), section 3.4, and
Bhat et al., "DiMP", ICCV 2019 (https://arxiv.org/abs/1904.07220). Official code:
https://github.com/594422814/TransformerTrack (MIT), `pytracking/tracker/trdimp/trdimp.py` for the
behaviour; written anew.

Two peaks of the score map are compared: the highest, and the highest that is away from it. The
height of the second, and the distances of both from where the target was, decide which of them is
the target. `boxes.py` refines the boxes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tracker_ros.arrays import Array, concatenate, zeros
from tracker_ros.models.trdimp.config import TrackingParameters
from tracker_ros.models.trdimp.patches import Placement
from tracker_ros.tracker import Verdict

MIN_START_SIDE = np.float32(1 / 3)
"""Least side of a start over the smaller side of the box that it was made from."""


class Sighting(NamedTuple):
    """The target's place according to a score map, and the tracker's verdict.

    `translation` is (2,) float32 `(y, x)` from the patch's middle to the target, image pixels.
    """

    translation: np.ndarray
    verdict: Verdict


class _Peak(NamedTuple):
    """Value and cell (2,) float32 `(y, x)` of a map's maximum."""

    value: np.float32
    cell: np.ndarray


def _highest(score: np.ndarray) -> _Peak:
    """Return the peak; among equals the smaller column wins, then the smaller row."""
    column, row = divmod(int(score.T.argmax()), score.shape[0])
    return _Peak(score[row, column], np.array([row, column], dtype=np.float32))


def _without_surroundings(score: np.ndarray, cell: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """Return a copy of the map that is 0 within `extent` (2,) cells around `cell`."""
    masked = score.copy()
    half = extent / np.float32(2.0)
    first = np.maximum(np.rint(cell - half), 0).astype(int)
    last = np.maximum(np.rint(cell + half + np.float32(1.0)), 0).astype(int)
    masked[first[0] : last[0], first[1] : last[1]] = 0.0
    return masked


def localise(
    score: np.ndarray,
    patch: Placement,
    position: np.ndarray,
    size: np.ndarray,
    parameters: TrackingParameters,
    window: np.ndarray | None = None,
) -> Sighting:
    """Find the target in a score map.

    Args:
        score: (n, n) float32, with n - 1 the side of the features; its middle is the patch's.
        patch: Where the patch lies in the image.
        position: (2,) float32 `(y, x)` where the target was, image pixels.
        size: (2,) float32 `(h, w)` of the target, image pixels.
        parameters: Thresholds.
        window: (n, n) float32 weights for the first peak, or None. The second peak is always
            sought on the plain map.
    """
    n = score.shape[0]
    pixels_per_cell = np.float32(patch.side / (n - 1)) * patch.scale
    middle = np.float32((n - 1) / 2)

    first = _highest(score if window is None else score * window)
    offset = first.cell - middle
    here = offset * pixels_per_cell
    if not parameters.advanced_localization:
        return Sighting(here, Verdict.NORMAL)
    if float(first.value) < parameters.target_not_found_threshold:
        return Sighting(here, Verdict.NOT_FOUND)

    extent = np.float32(parameters.target_neighborhood_scale) * (size / pixels_per_cell)
    second = _highest(_without_surroundings(score, first.cell, extent))
    other_offset = second.cell - middle

    if second.value > np.float32(parameters.distractor_threshold) * first.value:
        before = (position - patch.position) / pixels_per_cell
        far = parameters.displacement_scale * n / 2
        distance = float(np.linalg.norm(offset - before))
        other_distance = float(np.linalg.norm(other_offset - before))
        if distance < far < other_distance:
            return Sighting(here, Verdict.HARD_NEGATIVE)
        if other_distance < far < distance:
            return Sighting(other_offset * pixels_per_cell, Verdict.HARD_NEGATIVE)
        return Sighting(here, Verdict.UNCERTAIN)

    rival = second.value > np.float32(parameters.hard_negative_threshold) * first.value
    if rival and float(second.value) > parameters.target_not_found_threshold:
        return Sighting(here, Verdict.HARD_NEGATIVE)
    return Sighting(here, Verdict.NORMAL)


def keep_inside(
    position: np.ndarray, size: np.ndarray, image_shape: tuple[int, ...], inside_ratio: float
) -> np.ndarray:
    """Return a target's centre, moved so that it stays near the image.

    Position `(y, x)` and size `(h, w)` are (2,) float32 in pixels. With `inside_ratio` 0.5 the
    centre stays inside; a smaller value lets it leave the image by the difference, in target
    sizes.
    """
    least = np.float32(inside_ratio - 0.5) * size
    most = np.asarray(image_shape[:2], dtype=np.float32) - least
    return np.maximum(np.minimum(position, most), least)


def start_boxes(box: np.ndarray, random: np.ndarray, parameters: TrackingParameters) -> np.ndarray:
    """Return the boxes to refine, (n + 1, 4) float32 xywh: the box itself and others around it.

    The box is in pixels of the patch. `random` holds (n, 4) float32 in [0, 1): shifts of the
    centre and changes of the size, whose ranges are parameters.
    """
    corner, size = box[:2], box[2:]
    mean_side = np.sqrt(size.prod())
    jitter = mean_side * np.repeat(
        np.asarray([parameters.box_jitter_pos, parameters.box_jitter_sz], dtype=np.float32), 2
    )
    change = (random - np.float32(0.5)) * jitter
    sizes = np.maximum(size + change[:, 2:], size.min() * MIN_START_SIDE)
    centres = corner + size / np.float32(2.0) + change[:, :2]
    around = np.concatenate([centres - sizes / np.float32(2.0), sizes], axis=1)
    return np.concatenate([box[None], around])


def choose_box(
    boxes: np.ndarray, ious: np.ndarray, parameters: TrackingParameters
) -> np.ndarray | None:
    """Return the mean of the refined boxes that fit best, (4,) float32 xywh, or None.

    Of (n, 4) float32 xywh boxes in pixels of the patch with (n,) predicted overlaps, those that
    are not finite or too narrow do not count; None if none is left.
    """
    finite = np.isfinite(boxes).all(axis=1) & np.isfinite(ious)
    boxes, ious = boxes[finite], ious[finite]
    boxes = np.concatenate([boxes[:, :2], np.maximum(boxes[:, 2:], np.float32(1.0))], axis=1)
    aspect = boxes[:, 2] / boxes[:, 3]
    most = parameters.maximal_aspect_ratio
    shaped = (aspect < most) & (aspect > 1 / most)
    if not shaped.any():
        return None
    best = np.argsort(-ious[shaped], kind="stable")[: parameters.iounet_k]
    return boxes[shaped][best].mean(axis=0)


def remember_shape(box: np.ndarray, first_size: np.ndarray, share: float) -> np.ndarray:
    """Return a (4,) xywh box with its aspect ratio moved back towards the first box's.

    Centre and area stay. `first_size` is the (2,) `(h, w)` of the first box at any scale; `share`
    says how far to go, in logarithms: 0 not at all, 1 completely.
    """
    if share == 0:
        return box
    change = np.sqrt((first_size[1] / first_size[0]) / (box[2] / box[3])) ** np.float32(share)
    size = box[2:] * np.asarray([change, 1 / change], dtype=np.float32)
    return np.concatenate([box[:2] + (box[2:] - size) / 2, size])


def ascend(
    climb_once: Callable[[Array, Array], tuple[Array, Array]],
    boxes: Array,
    settings: TrackingParameters,
) -> tuple[Array, Array]:
    """Let boxes climb for a number of steps.

    Args:
        climb_once: Takes (P, 4) boxes and a (4,) step length; returns the boxes after the step,
            and the (P,) predicted IoU before it.
        boxes: (P, 4) xywh to start from.
        settings: The parameters `box_refinement_...`.

    Returns:
        (P, 4) boxes, and (P,) predicted IoU of the boxes before the last step.

    Raises:
        ValueError: The space is unknown, or there are no iterations.
    """
    space, iterations = settings.box_refinement_space, settings.box_refinement_iter
    if space not in ("relative", "default"):
        raise ValueError(f"box_refinement_space is {space!r}; expected 'relative' or 'default'")
    if iterations < 1:
        raise ValueError(f"box_refinement_iter is {iterations}; expected 1 or more")
    length = settings.box_refinement_step_length
    position, size = length if isinstance(length, tuple) else (length, length)
    # Filled on the device: a GPU would stall on a copy.
    step = concatenate([zeros((2,), boxes) + position, zeros((2,), boxes) + size])
    iou = zeros((0,), boxes)
    for _ in range(iterations):
        boxes, iou = climb_once(boxes, step)
        step = step * settings.box_refinement_step_decay
    return boxes, iou
