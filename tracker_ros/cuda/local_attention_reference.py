# SPDX-License-Identifier: Apache-2.0
"""The operators of `local_attention.py` in plain torch, differentiable: their fallback and oracle.

It has two variants that the compiled kernels lack: values gathered from other windows than the
keys, and windows sampled as torch's `grid_sample` samples a grid normalised by size - 1 when it is
told nothing about its corners. MAST's official code does both; see `models/mast/matching.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_BAND_VALUES = 1 << 23  # of the windows that are gathered at once


def correlate_padded(first: Tensor, padded: Tensor, window: int, dilation: int) -> Tensor:
    """Multiply every pixel of (B, C, H, W) with a window of a map that has a border already.

    The border of the padded map is window // 2 * dilation. Returns (B, window, window, H, W): dy,
    then dx, from negative to positive.
    """
    height, width = first.shape[2:]
    steps = range(0, window * dilation, dilation)
    rows = [
        torch.stack(
            [(first * padded[:, :, i : i + height, j : j + width]).sum(1) for j in steps], 1
        )
        for i in steps
    ]
    return torch.stack(rows, dim=1)


def sample_bilinear(maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Sample maps (B, C, H, W) between their pixels, zero outside; differentiable in everything.

    `x` and `y` are columns and rows, (B, ...). Returns (B, ..., C).
    """
    batch, channels, height, width = maps.shape
    left, top = x.detach().floor(), y.detach().floor()
    flat = maps.flatten(2).transpose(1, 2).contiguous()
    image = torch.arange(batch, device=maps.device).view(-1, *[1] * (x.dim() - 1))
    total = maps.new_zeros(*x.shape, channels)
    for row, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
        for column, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            # nan is outside too.
            place = torch.where(inside, row * width + column, 0).long()
            weight = torch.where(inside, weight_x * weight_y, 0)
            total = total + flat[image, place] * weight[..., None]
    return total


def window_positions(
    offset_xy: Tensor, radius: int, first_row: int, *, half_pixel: bool, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Return columns and rows of the windows around displaced pixels, each (B, windows, h, w).

    A window has (2 radius + 1)^2 places, row by row. `offset_xy` (B, h, w, 2) displaces h rows of
    pixels, from `first_row` of the map on, by (dx, dy). For `half_pixel` see
    `local_attention_reference`.
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


def _halo(maps: Tensor, border: int, rows: slice) -> Tensor:
    """Return some rows of maps and a border around them, zero outside."""
    return F.pad(maps, [border] * 4)[:, :, rows.start : rows.stop + 2 * border]


def _displaced_windows(
    maps: Tensor, offset_xy: Tensor, radius: int, rows: slice, half_pixel: bool
) -> Tensor:
    """Sample displaced windows of some rows of (B, C, H, W): (B, (2 radius + 1)^2, h, W, C)."""
    height, width = maps.shape[2:]
    x, y = window_positions(
        offset_xy[:, rows], radius, rows.start, half_pixel=half_pixel, height=height, width=width
    )
    return sample_bilinear(maps, x, y)


def _scores(
    query: Tensor,
    key: Tensor,
    offset_xy: Tensor | None,
    radius: int,
    rows: slice,
    half_pixel: bool,
) -> Tensor:
    """Multiply some rows of pixels with their windows: (B, (2 radius + 1)^2, h, W)."""
    band = query[:, :, rows]
    if offset_xy is None:
        return correlate_padded(band, _halo(key, radius, rows), 2 * radius + 1, 1).flatten(1, 2)
    windows = _displaced_windows(key, offset_xy, radius, rows, half_pixel)
    return (windows * band.permute(0, 2, 3, 1).unsqueeze(1)).sum(-1)


def _gathered(
    weight: Tensor,
    value: Tensor,
    offset_xy: Tensor | None,
    radius: int,
    rows: slice,
    half_pixel: bool,
) -> Tensor:
    """Add up some rows' windows by weight: (B, V, h, W)."""
    if offset_xy is None:
        side = 2 * radius + 1
        windows = _halo(value, radius, rows).unfold(2, side, 1).unfold(3, side, 1).flatten(4)
        return torch.einsum("bkhw,bvhwk->bvhw", weight, windows)
    windows = _displaced_windows(value, offset_xy, radius, rows, half_pixel)
    return (weight.unsqueeze(-1) * windows).sum(1).movedim(-1, 1)


def _bands(maps: Tensor, side: int) -> list[slice]:
    """Divide the rows, so that the windows of each part take a bounded amount of memory."""
    batch, channels, height, width = maps.shape
    rows = max(1, _BAND_VALUES // (batch * channels * width * side**2))
    return [slice(first, min(first + rows, height)) for first in range(0, height, rows)]


def local_attention_reference(
    query: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    offsets: Sequence[Tensor | None],
    radius: int,
    *,
    value_offsets: Sequence[Tensor | None] | None = None,
    half_pixel: bool = False,
) -> Tensor:
    """Compute `local_attention`, whose first five arguments it shares, in plain torch.

    `value_offsets` displace the windows of values, if not as those of the keys. `half_pixel`
    samples position p of an axis at p size / (size - 1) - 1/2; sides of the maps must then exceed
    1.
    """
    value_offsets = offsets if value_offsets is None else value_offsets
    bands = []
    for rows in _bands(query, 2 * radius + 1):
        scores = [
            _scores(query, key, offset, radius, rows, half_pixel)
            for key, offset in zip(keys, offsets, strict=True)
        ]
        weights = torch.cat(scores, dim=1).softmax(dim=1).chunk(len(scores), dim=1)
        parts = [
            _gathered(weight, value, offset, radius, rows, half_pixel)
            for weight, value, offset in zip(weights, values, value_offsets, strict=True)
        ]
        bands.append(torch.stack(parts).sum(0))
    return torch.cat(bands, dim=2)


def expected_offset_reference(query: Tensor, key: Tensor, radius: int, dilation: int) -> Tensor:
    """Compute `expected_offset` in plain torch."""
    batch, _, height, width = query.shape
    side, reach = 2 * radius + 1, radius * dilation
    steps = torch.arange(-reach, reach + 1, dilation, dtype=query.dtype, device=query.device)
    dy, dx = torch.meshgrid(steps, steps, indexing="ij")
    bands = []
    for rows in _bands(query, side):
        halo = _halo(key, reach, rows)
        scores = correlate_padded(query[:, :, rows], halo, side, dilation)
        weights = scores.flatten(1, 2).softmax(dim=1)
        expected = [(weights * d.reshape(1, -1, 1, 1)).sum(1) for d in (dx, dy)]
        bands.append(torch.stack(expected, dim=3))
    return torch.cat(bands, dim=1)
