# SPDX-License-Identifier: Apache-2.0
"""Draw batches of layered scenes with torch, on the CPU or a GPU.

A view is a rectangular window; a layer is a texture with a pose in it. All positions are pixels
from the centre of the view or of the texture, x to the right and y down. A pose is the linear map
F (B, 2, 2) and the translation c (B, 2) of ``view = F @ texture + c``.
"""

from __future__ import annotations

import functools
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

BorderFill = Literal["black", "edge"]
Shape = tuple[Tensor, Tensor, Tensor, Tensor]
"""Angle, log aspect, shear and mirror flag, each (B,): a pose without its scale and place."""
BLUR_TAPS = 9
"""Side of the kernel of motion blur, pixels."""


class Draw:
    """The random numbers of one batch; the order of the calls decides which call gets which.

    The same seed gives the same numbers on the same kind of device.
    """

    def __init__(self, device: torch.device, seed: int) -> None:
        self.device = device
        self._generator = torch.Generator(device).manual_seed(seed)

    def normal(self, shape: int | tuple[int, ...], deviation: float) -> Tensor:
        """Return normal numbers around zero, float32."""
        size = (shape,) if isinstance(shape, int) else shape
        draws = torch.randn(size, generator=self._generator, device=self.device)
        return draws.mul_(deviation)

    def uniform(self, shape: int | tuple[int, ...], low: float, high: float) -> Tensor:
        """Return numbers in [low, high), float32."""
        size = (shape,) if isinstance(shape, int) else shape
        draws = torch.rand(size, generator=self._generator, device=self.device)
        return low + (high - low) * draws

    def chance(self, count: int, probability: float) -> Tensor:
        """Return (count,) bool, each True with this probability."""
        return self.uniform(count, 0, 1) < probability

    def index(self, count: int, limit: int) -> Tensor:
        """Return (count,) int64 in [0, limit)."""
        return torch.randint(limit, (count,), generator=self._generator, device=self.device)


def planar(pixels: Tensor) -> Tensor:
    """Turn (B, H, W, C) uint8 into (B, C, H, W) float in [0, 1]."""
    return pixels.permute(0, 3, 1, 2).float() / 255


def linear_pose(
    angle: Tensor,
    log_aspect: Tensor | float = 0.0,
    shear: Tensor | float = 0.0,
    mirrored: Tensor | bool = False,
    scale: Tensor | float = 1.0,
) -> Tensor:
    """Combine mirror, anisotropic scale, shear and rotation, in this order.

    Args:
        angle: (B,) radians, clockwise on the screen.
        log_aspect: (B,) half the logarithm of the change of width over height.
        shear: (B,) horizontal shift per unit of height.
        mirrored: (B,) bool; whether left and right are exchanged.
        scale: (B,) view pixels per texture pixel.

    Returns:
        (B, 2, 2) linear maps from texture to view.
    """
    cos, sin = torch.cos(angle), torch.sin(angle)
    log_aspect, mirrored = torch.as_tensor(log_aspect), torch.as_tensor(mirrored)
    x_scale = scale * torch.exp(log_aspect) * torch.where(mirrored, -1.0, 1.0)
    y_scale = scale * torch.exp(-log_aspect)
    rows = [x_scale, shear * y_scale, torch.zeros_like(angle), y_scale]
    stretch = torch.stack(torch.broadcast_tensors(*rows), -1).view(-1, 2, 2)
    return torch.stack([cos, -sin, sin, cos], -1).view(-1, 2, 2) @ stretch


def extents(mask: Tensor, linear: Tensor, pitch: float) -> Tensor:
    """Return the bounding boxes of transformed masks.

    Masks are (B, h, w) bool, not empty, `pitch` texture pixels per mask pixel; the maps from
    texture to view (B, 2, 2). Returns (B, 4) x0, y0, x1, y1 from the transformed texture centre,
    view pixels.
    """
    _, height, width = mask.shape
    y = (torch.arange(height, device=mask.device) + 0.5 - height / 2) * pitch
    x = (torch.arange(width, device=mask.device) + 0.5 - width / 2) * pitch
    outside = ~mask
    low, high = [], []
    for axis in range(2):
        along = linear[:, axis, 0, None, None] * x + linear[:, axis, 1, None, None] * y[:, None]
        half_pixel = linear[:, axis].abs().sum(1) * pitch / 2
        low.append(along.masked_fill(outside, torch.inf).amin((1, 2)) - half_pixel)
        high.append(along.masked_fill(outside, -torch.inf).amax((1, 2)) + half_pixel)
    return torch.stack([*low, *high], -1)


def fit_pose(
    mask: Tensor, shape: Shape, side: Tensor, place: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the pose that gives a mask's box the wanted side and centre.

    The mask (B, h, w) has half the texture's resolution, the shape is the rest of the pose; `side`
    (B,) is the square root of the box area and `place` (B, 2) its centre from the middle of the
    view, view pixels. Returns linear map (B, 2, 2), translation (B, 2), scale (B,).
    """
    bounds = extents(mask, linear_pose(*shape), 2.0)
    scale = side / (bounds[:, 2:] - bounds[:, :2]).clamp(min=1).prod(1).sqrt()
    middle = (bounds[:, 2:] + bounds[:, :2]) / 2 * scale[:, None]
    return linear_pose(*shape, scale), place - middle, scale


def warp(
    texture: Tensor,
    linear: Tensor,
    centre: Tensor,
    size: tuple[int, int],
    flow: Tensor | None = None,
    padding: str = "zeros",
) -> Tensor:
    """Draw one texture per sample into a view.

    Args:
        texture: (B, C, h, w) float.
        linear: (B, 2, 2) texture to view.
        centre: (B, 2) where the texture's centre lies, pixels from the view's centre.
        size: (height, width) of the view.
        flow: (B, 2, k, k) elastic displacement in texture pixels (x, y), spread smoothly over the
            view.
        padding: What lies outside the texture: "zeros" or "reflection" (of all channels).

    Returns:
        (B, C, height, width) float.
    """
    height, width = size
    h, w = texture.shape[-2:]
    y = torch.arange(height, device=texture.device) + 0.5 - height / 2
    x = torch.arange(width, device=texture.device) + 0.5 - width / 2
    scale = torch.tensor([2 / w, 2 / h], device=texture.device)[:, None, None]
    inverse = _inverse(linear)
    offset = -(inverse @ centre[..., None])[..., None]
    # Offset and scale go into the single row and column: the view is touched once.
    across = (inverse[:, :, 0, None, None] * x + offset) * scale
    down = inverse[:, :, 1, None, None] * y[:, None] * scale
    grid = across + down
    if flow is not None:
        grid = grid + _bicubic(flow * scale, size)
    grid = grid.permute(0, 2, 3, 1)
    return F.grid_sample(texture, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def _bicubic(coarse: Tensor, size: tuple[int, int]) -> Tensor:
    """Spread (B, C, k, k) over (height, width) by bicubic interpolation, corners on corners.

    For the few cells of a flow two matrix products are several times faster than torch's kernel.
    """
    cells = coarse.shape[-1]
    down, across = (_bicubic_weights(side, cells, coarse.device) for side in size)
    return down @ coarse @ across.T


@functools.lru_cache(maxsize=64)
def _bicubic_weights(side: int, cells: int, device: torch.device) -> Tensor:
    """Return (side, cells): the share of each cell in each place along one axis."""
    unit = torch.eye(cells, device=device)[None, None]
    return F.interpolate(unit, size=(side, cells), mode="bicubic", align_corners=True)[0, 0]


def _inverse(linear: Tensor) -> Tensor:
    """Invert (B, 2, 2) maps in closed form; the general solver takes longer than all the rest."""
    (a, b), (c, d) = (row.unbind(-1) for row in linear.unbind(-2))
    adjugate = torch.stack([d, -b, -c, a], -1).view(-1, 2, 2)
    return adjugate / (a * d - b * c)[:, None, None]


def composite(image: Tensor, layer: Tensor, cover: Tensor | None = None) -> Tensor:
    """Lay (B, 4, H, W) with alpha over (B, 3, H, W); ``cover`` (B,) scales the alpha."""
    alpha = layer[:, 3:]
    if cover is not None:
        alpha = alpha * cover[:, None, None, None]
    return torch.lerp(image, layer[:, :3], alpha)


def mask_boxes(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tight boxes of masks (B, H, W): (B, 4) x, y, w, h in pixels, and (B,) bool.

    The box of an empty mask is zero; the second result tells which masks are not empty.
    """
    _, height, width = mask.shape
    rows, columns = mask.any(2), mask.any(1)
    found = rows.any(1)
    top = rows.float().argmax(1)
    bottom = height - rows.flip(1).float().argmax(1)
    left = columns.float().argmax(1)
    right = width - columns.flip(1).float().argmax(1)
    boxes = torch.stack([left, top, right - left, bottom - top], -1).float()
    return boxes * found[:, None], found


def smooth_field(coarse: Tensor, size: tuple[int, int]) -> Tensor:
    """Spread a coarse (B, C, k, k) field smoothly over a (height, width) view."""
    return F.interpolate(coarse, size=size, mode="bilinear", align_corners=True)


def line_blur(image: Tensor, angle: Tensor, length: Tensor) -> Tensor:
    """Blur images (B, 3, H, W) by motion along a line.

    Angles (B,) are in radians, lengths (B,) in pixels; those above `BLUR_TAPS` are cut.
    """
    batch = len(image)
    steps = torch.linspace(-0.5, 0.5, 2 * BLUR_TAPS, device=image.device)
    x = steps * (length * torch.cos(angle))[:, None]
    y = steps * (length * torch.sin(angle))[:, None]
    cells = torch.arange(BLUR_TAPS, device=image.device) - BLUR_TAPS // 2
    near_x = (1 - (x[:, :, None] - cells).abs()).clamp(min=0)
    near_y = (1 - (y[:, :, None] - cells).abs()).clamp(min=0)
    kernel = torch.einsum("bny,bnx->byx", near_y, near_x)
    kernel = kernel / kernel.sum((1, 2), keepdim=True)
    weight = kernel.repeat_interleave(3, 0)[:, None]
    padded = F.pad(image, [BLUR_TAPS // 2] * 4, mode="replicate")
    out = F.conv2d(padded.reshape(1, batch * 3, *padded.shape[-2:]), weight, groups=batch * 3)
    return out.view_as(image)


def cut_at_borders(
    draw: Draw, image: Tensor, boxes: Tensor, fraction: float, fill: BorderFill
) -> tuple[Tensor, Tensor, Tensor]:
    """Overwrite what lies beyond a random image border, and clip boxes to border and view.

    A share ``fraction`` of the images (B, 3, S, S) may have a border; beyond it lies ``fill``.
    Boxes are (B, 4) x, y, w, h in pixels. Returns images, clipped boxes, and (B,) bool: whether a
    quarter of the box's area is left.
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
