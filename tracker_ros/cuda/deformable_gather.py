# SPDX-License-Identifier: Apache-2.0
"""Windows of a map around displaced pixels, sampled bilinearly, by compiled kernels.

Pixel (y, x) of a map sits at the coordinate (y, x), and the map is zero outside. Under
`half_pixel` positions are what torch's `grid_sample` makes of a grid normalised by size - 1 when
it is told nothing of its corners: p becomes p size / (size - 1) - 1/2.

Where MAST uses it: Lai, Lu, Xie, CVPR 2020, section 3.2. Written anew from the definition.
Importing this module registers the operator `tracker_ros::deformable_gather`. Where kernels cannot
be built, and for gradients, plain torch computes the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tracker_ros.cuda.library import kernels


def deformable_gather(
    maps: Tensor, offset_xy: Tensor, window: int, *, half_pixel: bool = False
) -> Tensor:
    """Windows around displaced pixels, in the layout of torch's `unfold`; first derivatives only.

    Args:
        maps: (B, C, H, W) float32 or float64.
        offset_xy: (B, H, W, 2) displacement (dx, dy) of every pixel's window.
        window: Side of the window, odd.
        half_pixel: See the module; both sides of the maps must then exceed 1.

    Returns:
        (B, C window^2, H W): channels, then rows of the window.

    Raises:
        ValueError: Shapes do not fit, or the window has no middle.
    """
    batch, _, height, width = maps.shape
    if offset_xy.shape != (batch, height, width, 2) or window % 2 == 0:
        raise ValueError(
            f"offsets have shape {tuple(offset_xy.shape)} and the window {window}; expected "
            f"{(batch, height, width, 2)} and an odd number"
        )
    return _gather(maps, offset_xy, window, half_pixel)


def sample_bilinear(maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Values of maps between their pixels, zero outside; differentiable in all arguments.

    Args:
        maps: (B, C, H, W).
        x: (B, ...) columns.
        y: (B, ...) rows, of the same shape.

    Returns:
        (B, ..., C).
    """
    batch, channels, height, width = maps.shape
    left, top = x.detach().floor(), y.detach().floor()
    flat = maps.flatten(2).transpose(1, 2).contiguous()
    image = torch.arange(batch, device=maps.device).view(-1, *[1] * (x.dim() - 1))
    total = maps.new_zeros(*x.shape, channels)
    for row, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
        for column, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            # Also what is not a number is outside.
            place = torch.where(inside, row * width + column, 0).long()
            weight = torch.where(inside, weight_x * weight_y, 0)
            total = total + flat[image, place] * weight[..., None]
    return total


def window_positions(
    offset_xy: Tensor, radius: int, first_row: int, *, half_pixel: bool, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Where the windows around displaced pixels lie.

    Args:
        offset_xy: (B, h, w, 2) displacement (dx, dy) of h rows of pixels.
        radius: Pixels on each side of the middle one.
        first_row: Where in the map the first of those rows lies.
        half_pixel: See the module.
        height: Of the map.
        width: Of the map.

    Returns:
        Columns and rows, each (B, (2 radius + 1)^2, h, w); windows run row by row.
    """
    like: dict[str, Any] = {"dtype": offset_xy.dtype, "device": offset_xy.device}
    _, rows, columns, _ = offset_xy.shape
    steps = torch.arange(-radius, radius + 1, **like)
    dy, dx = (d.reshape(-1, 1, 1) for d in torch.meshgrid(steps, steps, indexing="ij"))
    x = offset_xy[..., 0].unsqueeze(1) + dx + torch.arange(columns, **like)
    y = offset_xy[..., 1].unsqueeze(1) + dy + torch.arange(rows, **like)[:, None] + first_row
    if half_pixel:
        x = x * (width / (width - 1)) - 0.5
        y = y * (height / (height - 1)) - 0.5
    return x, y


def deformable_gather_reference(
    maps: Tensor, offset_xy: Tensor, window: int, half_pixel: bool
) -> Tensor:
    """`deformable_gather` in plain torch."""
    batch, channels, height, width = maps.shape
    x, y = window_positions(
        offset_xy, window // 2, 0, half_pixel=half_pixel, height=height, width=width
    )
    sampled = sample_bilinear(maps, x, y).movedim(-1, 1)
    return sampled.reshape(batch, channels * window**2, height * width)


@torch.library.custom_op(
    "tracker_ros::deformable_gather",
    mutates_args=(),
    schema="(Tensor maps, Tensor offset_xy, SymInt window, bool half_pixel) -> Tensor",
)
def _gather(maps: Tensor, offset_xy: Tensor, window: int, half_pixel: bool) -> Tensor:
    run = kernels("deformable_gather", maps.device)
    if run is None:
        return deformable_gather_reference(maps, offset_xy, window, half_pixel)
    batch, channels, height, width = maps.shape
    positions = window_positions(
        offset_xy, window // 2, 0, half_pixel=half_pixel, height=height, width=width
    )
    places = window**2 * height * width
    out = maps.new_empty(batch, channels * window**2, height * width)
    x, y = (axis.contiguous() for axis in positions)
    sizes = channels, height, width, places
    run("deformable_gather", out.numel(), out, maps.contiguous(), x, y, *sizes)
    return out


@_gather.register_fake
def _(maps: Tensor, offset_xy: Tensor, window: int, half_pixel: bool) -> Tensor:
    batch, channels, height, width = maps.shape
    return maps.new_empty(batch, channels * window**2, height * width)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    maps, offset_xy, *ctx.numbers = inputs
    ctx.save_for_backward(maps, offset_xy)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
        out = deformable_gather_reference(*inputs, *ctx.numbers)
        return *torch.autograd.grad(out, inputs, grad), None, None


_gather.register_autograd(_backward, setup_context=_save)
