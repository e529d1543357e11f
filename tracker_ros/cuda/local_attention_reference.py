# SPDX-License-Identifier: Apache-2.0
"""Attention over windows of reference maps, and where its middle lies, in plain torch: the oracle.

A pixel's feature is compared with the features in a window of every reference; one softmax over
all those windows together weights the references' values. Windows may be displaced pixel by pixel.
What lies outside a map takes part with a score of 0 and carries no value, so that weights add up
to less than one near borders.

Paper: Lai, Lu, Xie, "MAST: A Memory-Augmented Self-Supervised Tracker", CVPR 2020, sections 3.2
and 3.3 (https://arxiv.org/abs/2002.07793). Written anew from its definition.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tracker_ros.cuda.deformable_gather import sample_bilinear, window_positions
from tracker_ros.cuda.spatial_correlation import correlate_padded

_BAND_VALUES = 1 << 23  # of the windows that are gathered at once


def _halo(maps: Tensor, border: int, rows: slice) -> Tensor:
    """Some rows of maps and a border around them, zero outside."""
    return F.pad(maps, [border] * 4)[:, :, rows.start : rows.stop + 2 * border]


def _displaced_windows(
    maps: Tensor, offset_xy: Tensor, radius: int, rows: slice, half_pixel: bool
) -> Tensor:
    """(B, C, H, W) -> displaced windows of some rows of pixels (B, (2 radius + 1)^2, h, W, C)."""
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
    """Products of some rows of pixels with their windows, (B, (2 radius + 1)^2, h, W)."""
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
    """Weighted sum of some rows' windows, (B, V, h, W)."""
    if offset_xy is None:
        side = 2 * radius + 1
        windows = _halo(value, radius, rows).unfold(2, side, 1).unfold(3, side, 1).flatten(4)
        return torch.einsum("bkhw,bvhwk->bvhw", weight, windows)
    windows = _displaced_windows(value, offset_xy, radius, rows, half_pixel)
    return (weight.unsqueeze(-1) * windows).sum(1).movedim(-1, 1)


def _bands(maps: Tensor, side: int) -> list[slice]:
    """Rows to be done together, so that their windows take a bounded amount of memory."""
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
    """`local_attention` in plain torch, and two ways of it that only the oracle knows.

    Args:
        query: See `local_attention`, as the next four.
        keys: One per reference.
        values: One per reference.
        offsets: One per reference.
        radius: Of the windows.
        value_offsets: Where to look for values, if not where the keys are.
        half_pixel: How displaced windows are sampled; see `deformable_gather`.
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
    """`expected_offset` in plain torch."""
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
