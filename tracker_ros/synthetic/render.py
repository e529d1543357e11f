# SPDX-License-Identifier: Apache-2.0
"""Batched drawing of layered scenes with torch, on the CPU or a GPU.

A view is a square or rectangular window; a layer is a texture with a pose in it. All positions are
pixels from the centre of the view or of the texture, x to the right and y down. A pose is the
linear map F (B, 2, 2) and the translation c (B, 2) of ``view = F @ texture + c``.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor


def linear_pose(
    angle: Tensor, log_aspect: Tensor, shear: Tensor, mirrored: Tensor, scale: Tensor
) -> Tensor:
    """Rotation · shear · anisotropic scale · mirror, each argument of shape (B,).

    Args:
        angle: Radians, clockwise on the screen.
        log_aspect: Half the log of width over height added.
        shear: Horizontal shift per unit of height.
        mirrored: Bool; left and right exchanged.
        scale: View pixels per texture pixel.

    Returns:
        (B, 2, 2) linear maps from texture to view.
    """
    cos, sin = torch.cos(angle), torch.sin(angle)
    x_scale = scale * torch.exp(log_aspect) * torch.where(mirrored, -1.0, 1.0)
    y_scale = scale * torch.exp(-log_aspect)
    rotation = torch.stack([cos, -sin, sin, cos], -1).view(-1, 2, 2)
    stretch = torch.stack([x_scale, shear * y_scale, torch.zeros_like(shear), y_scale], -1).view(
        -1, 2, 2
    )
    return rotation @ stretch


def extents(mask: Tensor, linear: Tensor, pitch: float) -> Tensor:
    """Bounding boxes of transformed masks.

    Args:
        mask: (B, h, w) bool, at least one pixel set per sample.
        linear: (B, 2, 2) maps from texture to view.
        pitch: Texture pixels per mask pixel.

    Returns:
        (B, 4) x0, y0, x1, y1 relative to the transformed texture centre, view pixels.
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
            view; None for none.
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

    Written as two matrix products, which are several times faster than torch's kernel for the few
    cells of a flow.
    """
    cells = coarse.shape[-1]
    down, across = (_bicubic_weights(side, cells, coarse.device) for side in size)
    return down @ coarse @ across.T


@functools.lru_cache(maxsize=64)
def _bicubic_weights(side: int, cells: int, device: torch.device) -> Tensor:
    """(side, cells) share of each cell in each place along one axis."""
    unit = torch.eye(cells, device=device)[None, None]
    return F.interpolate(unit, size=(side, cells), mode="bicubic", align_corners=True)[0, 0]


def _inverse(linear: Tensor) -> Tensor:
    """Inverse of (B, 2, 2) maps in closed form; the general solver costs more than the rest."""
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
    """Tight boxes of masks.

    Args:
        mask: (B, H, W) bool.

    Returns:
        (B, 4) x, y, w, h in pixels (zeros where the mask is empty) and (B,) bool "not empty".
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


def line_blur(image: Tensor, angle: Tensor, length: Tensor, taps: int = 9) -> Tensor:
    """Motion blur along a line.

    Args:
        image: (B, 3, H, W) float.
        angle: (B,) radians.
        length: (B,) pixels.
        taps: Side of the kernel, odd; lengths beyond it are cut.

    Returns:
        (B, 3, H, W) float.
    """
    batch = len(image)
    steps = torch.linspace(-0.5, 0.5, 2 * taps, device=image.device)
    x = steps * (length * torch.cos(angle))[:, None]
    y = steps * (length * torch.sin(angle))[:, None]
    cells = torch.arange(taps, device=image.device) - taps // 2
    near_x = (1 - (x[:, :, None] - cells).abs()).clamp(min=0)
    near_y = (1 - (y[:, :, None] - cells).abs()).clamp(min=0)
    kernel = torch.einsum("bny,bnx->byx", near_y, near_x)
    kernel = kernel / kernel.sum((1, 2), keepdim=True)
    weight = kernel.repeat_interleave(3, 0)[:, None]
    padded = F.pad(image, [taps // 2] * 4, mode="replicate")
    out = F.conv2d(padded.reshape(1, batch * 3, *padded.shape[-2:]), weight, groups=batch * 3)
    return out.view_as(image)
