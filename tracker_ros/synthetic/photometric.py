# SPDX-License-Identifier: Apache-2.0
"""Vary light, colour, blur and noise of batches of images, drawn with torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tracker_ros.synthetic.render import Draw, line_blur, smooth_field

GREY_WEIGHTS = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in grey (ITU-R BT.601)."""
_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


@dataclass(frozen=True)
class PhotometricConfig:
    """Strength of each effect; fractions are probabilities per pair or per view.

    In a share `distant_fraction` of the scenes every crop has lost its resolution, by a factor
    within `distant_limits`, as small targets have that are enlarged.
    """

    gain: float = 0.18
    colour_gain: float = 0.06
    gamma: float = 0.15
    grey_fraction: float = 0.15
    permuted_fraction: float = 0.3
    shade_fraction: float = 0.4
    shade: float = 0.35
    motion_blur_fraction: float = 0.25
    motion_blur_length: float = 9.0
    coarse_fraction: float = 0.3
    coarse_limit: float = 0.3
    noise_limit: float = 0.04
    distant_fraction: float = 0.0
    distant_limits: tuple[float, float] = (0.12, 0.35)


@dataclass(frozen=True)
class Style:
    """What all crops of a scene share."""

    config: PhotometricConfig  # strength of the effects
    grey: Tensor  # (B,) bool; scenes without colour
    order: Tensor  # (B, 3) order of the colour channels
    distant: Tensor  # (B,) bool; scenes seen from so far that a target has few pixels

    @classmethod
    def draw(cls, draw: Draw, size: int, config: PhotometricConfig) -> Style:
        """Draw the styles of ``size`` scenes."""
        orders = torch.tensor(_ORDERS, device=draw.device)
        pick = draw.index(size, 6) * draw.chance(size, config.permuted_fraction)
        grey = draw.chance(size, config.grey_fraction)
        distant = torch.zeros_like(grey)
        if config.distant_fraction:
            distant = draw.chance(size, config.distant_fraction)
        return cls(config, grey, orders[pick], distant)

    def repeated(self, count: int) -> Style:
        """Return the styles with each one ``count`` times in a row."""
        parts = (
            part.repeat_interleave(count, 0) for part in (self.grey, self.order, self.distant)
        )
        return Style(self.config, *parts)


def relight(draw: Draw, layer: Tensor, style: Style) -> Tensor:
    """Change the light on a layer (B, 4, H, W) but not on its surroundings; alpha is kept."""
    size, height, width = len(layer), *layer.shape[-2:]
    coarse = draw.normal((size, 1, 3, 3), 0.6 * style.config.shade)
    strength = torch.exp(smooth_field(coarse, (height, width)))
    return torch.cat([(layer[:, :3] * strength).clamp(max=1), layer[:, 3:]], 1)


def disguise(draw: Draw, texture: Tensor) -> Tensor:
    """Make look-alikes of objects (B, 4, h, w): other colours, mirrored, alpha likewise."""
    size = len(texture)
    other = torch.where(
        draw.chance(size, 0.5)[:, None, None, None], texture[:, [1, 2, 0]], texture[:, [2, 0, 1]]
    )
    gain = torch.exp(draw.normal((size, 3, 1, 1), 0.3))
    colour = torch.lerp(texture[:, :3], other, draw.uniform((size, 1, 1, 1), 0.4, 1)) * gain
    return torch.cat([colour.clamp(0, 1), texture[:, 3:]], 1).flip(-1)


def develop(draw: Draw, image: Tensor, style: Style) -> Tensor:
    """Turn a drawn scene (B, 3, H, W) in [0, 1] into what a camera would deliver."""
    c, size = style.config, len(image)
    image = image.gather(1, style.order[:, :, None, None].expand_as(image))
    gain = torch.exp(
        draw.normal((size, 1, 1, 1), c.gain) + draw.normal((size, 3, 1, 1), c.colour_gain)
    )
    gamma = torch.exp(draw.normal((size, 1, 1, 1), c.gamma))
    rows = torch.where(draw.chance(size, c.shade_fraction))[0]
    image = (image.clamp(1e-4, 1) ** gamma) * gain
    if len(rows):
        coarse = draw.normal((len(rows), 1, 4, 4), c.shade)
        shade = smooth_field(coarse, (image.shape[-2], image.shape[-1]))
        image[rows] = image[rows] * torch.exp(shade)
    grey = (image * image.new_tensor(GREY_WEIGHTS)[:, None, None]).sum(1, keepdim=True)
    image = torch.where(style.grey[:, None, None, None], grey.expand_as(image), image)
    rows = torch.where(draw.chance(size, c.motion_blur_fraction))[0]
    if len(rows):
        angle = draw.uniform(len(rows), 0, math.pi)
        length = draw.uniform(len(rows), 1, c.motion_blur_length)
        image[rows] = line_blur(image[rows], angle, length)
    rows = torch.where(draw.chance(size, c.coarse_fraction))[0]
    if len(rows):
        image[rows] = _coarsen(image[rows], float(draw.uniform(1, c.coarse_limit, 0.8)))
    rows = torch.where(style.distant)[0]
    if len(rows):
        image[rows] = _coarsen(image[rows], float(draw.uniform(1, *c.distant_limits)))
    noise = draw.uniform((size, 1, 1, 1), 0, 1).square() * c.noise_limit
    return (image + draw.normal(tuple(image.shape), 1.0) * noise).clamp(0, 1)


def _coarsen(image: Tensor, factor: float) -> Tensor:
    """Lose resolution: shrink by ``factor`` < 1 with area averaging, enlarge bilinearly."""
    height, width = image.shape[-2:]
    size = (max(8, round(height * factor)), max(8, round(width * factor)))
    small = F.interpolate(image, size=size, mode="area")
    return F.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)
