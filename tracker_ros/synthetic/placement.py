# SPDX-License-Identifier: Apache-2.0
"""Where a target lies in a crop: the view, the pose that brings it there, and image borders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tracker_ros.geometry import xywh_to_cxcywh
from tracker_ros.synthetic.draw import Draw
from tracker_ros.synthetic.render import extents, linear_pose

BorderFill = Literal["black", "edge"]
Shape = tuple[Tensor, Tensor, Tensor, Tensor]
"""Angle, log aspect, shear and mirror flag, each (B,): the pose but for scale and place."""


@dataclass(frozen=True)
class View:
    """A crop, and where in it the target shall be.

    Attributes:
        side: Of the crop, pixels.
        target: (B,) square root of the target's box area, pixels.
        position: (B, 2) x, y of the box's centre from the middle of the crop, pixels.
        searching: Whether it is a search crop, else a template.
    """

    side: int
    target: Tensor
    position: Tensor
    searching: bool


def fit_pose(
    mask: Tensor, shape: Shape, side: Tensor, place: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Pose that gives a mask's box the wanted side and centre.

    Args:
        mask: (B, h, w) bool at half the texture's resolution.
        shape: Angle, log aspect, shear, mirror flag, each (B,).
        side: (B,) wanted square root of the box area, view pixels.
        place: (B, 2) wanted box centre from the middle of the view.

    Returns:
        Linear map (B, 2, 2), translation (B, 2), scale (B,).
    """
    bounds = extents(mask, linear_pose(*shape, torch.ones_like(side)), 2.0)
    scale = side / (bounds[:, 2:] - bounds[:, :2]).clamp(min=1).prod(1).sqrt()
    middle = (bounds[:, 2:] + bounds[:, :2]) / 2 * scale[:, None]
    return linear_pose(*shape, scale), place - middle, scale


def grow_boxes(boxes: Tensor, factor: Tensor) -> Tensor:
    """Scale boxes (B, 4) xywh about their centres by ``factor`` (B,)."""
    side = boxes[:, 2:] * factor[:, None]
    return torch.cat([boxes[:, :2] - (side - boxes[:, 2:]) / 2, side], 1)


def centres_in_view(boxes: Tensor, side: int) -> Tensor:
    """Centres (B, 2) of boxes (B, 4) xywh, pixels from the middle of a view of ``side``."""
    return xywh_to_cxcywh(boxes)[:, :2] - side / 2


def cut_at_borders(
    draw: Draw, image: Tensor, boxes: Tensor, fraction: float, fill: BorderFill = "black"
) -> tuple[Tensor, Tensor, Tensor]:
    """Overwrite what lies beyond a random image border, and clip boxes to border and view.

    Args:
        draw: Random numbers.
        image: (B, 3, S, S) float.
        boxes: (B, 4) x, y, w, h in pixels.
        fraction: How many samples may have a border.
        fill: With what: "black", or the "edge" repeated.

    Returns:
        Image, clipped boxes, and (B,) bool: at least a quarter of the box's area is left.
    """
    size, side = len(image), image.shape[-1]
    has = draw.chance(size, fraction)[:, None]
    at_low = draw.chance(size * 2, 0.35).view(size, 2) & has
    at_high = draw.chance(size * 2, 0.35).view(size, 2) & has & ~at_low
    start, end = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    # From well outside the box to 0.4 of its side inside it.
    reach = draw.uniform((size, 2), -1.2, 0.4) * boxes[:, 2:]
    low = torch.where(at_low, start + reach, 0.0).clamp(0, side)
    high = torch.where(at_high, end - reach, float(side)).clamp(0, side)
    line = torch.arange(side, device=image.device) + 0.5
    if fill == "black":
        columns = (line > low[:, :1]) & (line < high[:, :1])
        lines = (line > low[:, 1:]) & (line < high[:, 1:])
        image = image * (lines[:, None, :, None] & columns[:, None, None, :])
    else:
        rows = torch.where((at_low | at_high).any(1))[0]
        limits = torch.stack([low[rows], high[rows] - 1]).floor().clamp(0, side - 1).long()
        pixel = line.long()
        x, y = (pixel.clamp(*limits[:, :, axis, None]) for axis in range(2))
        image[rows] = image[rows[:, None, None], :, y[:, :, None], x[:, None, :]].movedim(-1, 1)
    start = torch.maximum(start, low)
    clipped = torch.cat([start, (torch.minimum(end, high) - start).clamp(min=0)], 1)
    kept = clipped[:, 2:].prod(1) > 0.25 * boxes[:, 2:].prod(1)
    return image, clipped, kept
