# SPDX-License-Identifier: Apache-2.0
"""The first image seen in several ways, so that the filter learns more than one view.

Paper: Bhat et al., "DiMP", ICCV 2019 (https://arxiv.org/abs/1904.07220), section 3.4.
Official code: https://github.com/594422814/TransformerTrack (MIT),
`pytracking/features/augmentation.py` for the behaviour; written anew.

All views are cut from one patch, wider than a crop. What differs on purpose: rotated views are
sampled exactly, where older releases of OpenCV round positions to 1/32 pixel; blurs and rotations
compute only what the view shows.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tracker_ros.models.inference_layers import in_float32
from tracker_ros.models.trdimp.config import TrackingParameters

Shift = tuple[int, int]


class Draws(Protocol):
    """Where random numbers come from; all float32."""

    def shift(self) -> np.ndarray:
        """(2,) in [0, 1), `(y, x)`: of one augmented view."""

    def dropout(self, copies: int, channels: int, probability: float) -> np.ndarray:
        """(copies, channels): 0 with `probability`, else 1 / (1 - probability)."""

    def boxes(self, count: int) -> np.ndarray:
        """(count, 4) in [0, 1), `(x, y, w, h)`: of the boxes that are refined in one frame."""


class SeededDraws:
    """Draws of one generator; the same seed gives the same numbers."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def shift(self) -> np.ndarray:
        """See `Draws`."""
        return self._generator.random(2, dtype=np.float32)

    def dropout(self, copies: int, channels: int, probability: float) -> np.ndarray:
        """See `Draws`."""
        kept = self._generator.random((copies, channels)) >= probability
        return kept.astype(np.float32) / np.float32(1.0 - probability)

    def boxes(self, count: int) -> np.ndarray:
        """See `Draws`."""
        return self._generator.random((count, 4), dtype=np.float32)


class Views(NamedTuple):
    """What the first image is seen as.

    Attributes:
        patches: (N, 3, S, S) float32 in 0..255; the first is the plain crop.
        shifts: (N, 2) float32 `(x, y)` that the target moved by, pixels of the patch.
    """

    patches: Tensor
    shifts: np.ndarray


def augment(wide: Tensor, parameters: TrackingParameters, draws: Draws) -> Views:
    """Make the views of the first image.

    Args:
        wide: (1, 3, E, E) float32 in 0..255 around the target.
        parameters: Which views, and the crop's side S.
        draws: Asked for one shift per flip, blur and rotation, in this order.
    """
    side, options = parameters.image_sample_size, parameters.augmentation

    def drawn() -> Shift:
        reach = np.float32(side * parameters.random_shift_factor)
        y, x = (draws.shift() - np.float32(0.5)) * reach
        return int(y), int(x)

    shifts: list[Shift] = [(0, 0)]
    shifts += [(int(y * side / 2), int(x * side / 2)) for y, x in options.relative_shift]
    patches = [_crop(wide, shift, side) for shift in shifts]
    if options.flip:
        shifts.append(drawn())
        patches.append(_crop(wide.flip(3), shifts[-1], side))
    for deviation in options.blur:
        shifts.append(drawn())
        patches.append(_blurred(wide, deviation, shifts[-1], side))
    for degrees in options.rotate:
        shifts.append(drawn())
        patches.append(_rotated(wide, degrees, shifts[-1], side))
    return Views(torch.cat(patches), np.asarray(shifts, dtype=np.float32)[:, ::-1].copy())


def drop_channels(
    classification: Tensor, parameters: TrackingParameters, draws: Draws
) -> tuple[Tensor, int]:
    """Add copies of the first features with channels left out.

    Args:
        classification: (N, C, h, w).
        parameters: How many copies, and how likely a channel is left out.
        draws: Asked once.

    Returns:
        (N + copies, C, h, w), and the number of copies.
    """
    options = parameters.augmentation
    copies = options.dropout_copies
    if copies == 0:
        return classification, 0
    factors = draws.dropout(copies, classification.shape[1], options.dropout)
    mask = torch.from_numpy(factors).to(classification)[:, :, None, None]
    return torch.cat([classification, classification[:1] * mask]), copies


def _corner(wide: Tensor, shift: Shift, side: int) -> tuple[int, int]:
    """First row and column of `wide` that a crop shows whose content moves by `shift`.

    Raises:
        ValueError: The crop would leave `wide`.
    """
    spare = wide.shape[-1] - side
    top, left = (spare + 1) // 2 - shift[0], (spare + 1) // 2 - shift[1]
    if not (0 <= top <= spare and 0 <= left <= spare):
        raise ValueError(
            f"a shift of {shift} px leaves the patch of {wide.shape[-1]} px; expected at most "
            f"{spare // 2} px (widen augmentation_expansion_factor or shift less)"
        )
    return top, left


def _crop(wide: Tensor, shift: Shift, side: int) -> Tensor:
    top, left = _corner(wide, shift, side)
    return wide[:, :, top : top + side, left : left + side]


@in_float32
def _blurred(wide: Tensor, deviation: tuple[float, float], shift: Shift, side: int) -> Tensor:
    """Gaussian blur, first along y, of what the crop shows; 0 outside `wide`."""
    top, left = _corner(wide, shift, side)
    (reach_y, kernel_y), (reach_x, kernel_x) = (_gaussian(d) for d in deviation)
    padded = F.pad(wide, (reach_x, reach_x, reach_y, reach_y))
    part = padded[:, :, top : top + side + 2 * reach_y, left : left + side + 2 * reach_x]
    channels = part.transpose(0, 1)
    channels = F.conv2d(channels, kernel_y.to(wide).view(1, 1, -1, 1))
    return F.conv2d(channels, kernel_x.to(wide).view(1, 1, 1, -1)).transpose(0, 1)


def _gaussian(deviation: float) -> tuple[int, Tensor]:
    """Half width of the kernel, and the kernel, (2 * half + 1,) of sum 1."""
    reach = math.ceil(2 * deviation)
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-(steps**2) / (2 * deviation**2))
    return reach, kernel / kernel.sum()


def _rotated(wide: Tensor, degrees: float, shift: Shift, side: int) -> Tensor:
    """Rotation about the middle of `wide`, sampled bilinearly; edges are repeated."""
    top, left = _corner(wide, shift, side)
    middle = (wide.shape[-1] - 1) / 2
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    place = torch.arange(side, dtype=torch.float64, device=wide.device)
    dy, dx = (place + top - middle)[:, None], (place + left - middle)[None]
    return _bilinear(wide, middle + sin * dx + cos * dy, middle + cos * dx - sin * dy)


def _bilinear(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """(1, C, H, W) at float64 positions (h, w) -> (1, C, h, w); outside it edges are repeated."""
    height, width = image.shape[2:]
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.floor(), x.floor()
    fy, fx = (y - top).float(), (x - left).float()
    rows, columns = top.long(), left.long()
    below, right = (rows + 1).clamp(max=height - 1), (columns + 1).clamp(max=width - 1)
    pixels = image[0].flatten(1)

    def at(row: Tensor, column: Tensor) -> Tensor:
        return pixels[:, (row * width + column).flatten()].view(-1, *y.shape)

    above = torch.lerp(at(rows, columns), at(rows, right), fx)
    under = torch.lerp(at(below, columns), at(below, right), fx)
    return torch.lerp(above, under, fy)[None]
