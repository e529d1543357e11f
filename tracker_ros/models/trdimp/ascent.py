# SPDX-License-Identifier: Apache-2.0
"""Boxes that climb the predicted IoU, step by step; for paper and official code see `boxes.py`."""

from __future__ import annotations

from collections.abc import Callable

from tracker_ros.arrays import Array, concatenate, zeros
from tracker_ros.models.trdimp.config import TrackingParameters


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
