# SPDX-License-Identifier: Apache-2.0
"""Precise RoI pooling in closed form: the exact mean of the bilinear surface over every bin.

Bilinear interpolation weights a pixel by a hat function along each axis, so the mean over a bin is
a product of two means over an interval, and the pooled map is `Wy F Wx^T`, two matrix products per
RoI: no compiled code, differentiable in features and boxes, exportable.

Pixel (y, x) of the map sits at the coordinate (y, x), without a half-pixel shift, and the map is
zero outside. A box without area (also one of negative width) gives zeros and passes no gradient.

Paper: Jiang et al., "Acquisition of Localization Confidence for Accurate Object Detection", ECCV
2018; official kernels: https://github.com/vacancy/PreciseRoIPooling. Written anew from the
definition.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class AxisWeights(NamedTuple):
    """Pooling weights along one axis, and their derivatives; each (..., bins, size)."""

    weights: Tensor
    by_start: Tensor
    by_end: Tensor


def _hat_integral(u: Tensor) -> Tensor:
    """Integral of max(0, 1 - |t|) from 0 to u; its autograd slope is right at u = 0 too."""
    c = u.clamp(-1.0, 1.0)
    return c - c * c.abs() / 2


def _offsets(start: Tensor, end: Tensor, bins: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Edges minus pixels (..., bins + 1, size), bin width (..., 1, 1), and where there is any.

    Empty intervals are replaced by the unit interval, which keeps nan out of their gradients.
    """
    # Whole pixels are taken off first: far from 0, float32 would lose the width of tiny bins.
    origin = start.detach().floor()
    start, end = start - origin, end - origin
    # Asked only now: just below a whole pixel, rounding may have left no width.
    valid = end > start
    origin = torch.where(valid, origin, torch.zeros_like(origin))
    start = torch.where(valid, start, torch.zeros_like(start))
    end = torch.where(valid, end, torch.ones_like(end))
    width = (end - start) / bins
    step = torch.arange(bins + 1, dtype=start.dtype, device=start.device)
    pixel = torch.arange(size, dtype=start.dtype, device=start.device) - origin[..., None]
    edges = start[..., None] + width[..., None] * step
    return edges[..., None] - pixel[..., None, :], width[..., None, None], valid[..., None, None]


def pooling_weights(start: Tensor, end: Tensor, bins: int, size: int) -> Tensor:
    """Weight of every pixel in the mean over every bin, along one axis.

    Args:
        start: (...) where the interval begins, in pixels of the map.
        end: (...) where it ends.
        bins: Equal parts that it is divided into.
        size: Pixels of the map along this axis, at 0 .. size - 1.

    Returns:
        (..., bins, size); zeros for an interval that does not end after it starts.
    """
    offsets, width, valid = _offsets(start, end, bins, size)
    weights = _hat_integral(offsets).diff(dim=-2) / width
    return torch.where(valid, weights, torch.zeros_like(weights))


def pooling_weights_with_derivatives(
    start: Tensor, end: Tensor, bins: int, size: int
) -> AxisWeights:
    """`pooling_weights`, and how they change with either end of the interval, without autograd.

    With pooled = Wy F Wx^T, the derivative of a pooled map by x0 is Wy F (dWx/dx0)^T, and so on.

    Args:
        start: (...) where the interval begins, in pixels of the map.
        end: (...) where it ends.
        bins: Equal parts that it is divided into.
        size: Pixels of the map along this axis.
    """
    offsets, width, valid = _offsets(start, end, bins, size)
    height = 1 - offsets.clamp(-1.0, 1.0).abs()
    share = torch.arange(bins + 1, dtype=start.dtype, device=start.device)[:, None] / bins
    weights = _hat_integral(offsets).diff(dim=-2) / width
    spread = weights / bins  # the bins are bins * width long together
    by_end = ((height * share).diff(dim=-2) - spread) / width
    by_start = ((height * (1 - share)).diff(dim=-2) + spread) / width
    zero = torch.zeros_like(weights)
    return AxisWeights(*(torch.where(valid, w, zero) for w in (weights, by_start, by_end)))


def pool_boxes(
    features: Tensor, boxes: Tensor, output_size: int | tuple[int, int], spatial_scale: float
) -> Tensor:
    """Pool the same number of boxes from each image.

    Args:
        features: (N, C, H, W), any floating type.
        boxes: (N, P, 4) x0, y0, x1, y1 in input pixels.
        output_size: Bins along both axes, or (vertically, horizontally).
        spatial_scale: Pixels of the map per input pixel, for example 1 / 16.

    Returns:
        (N, P, C, ph, pw) in the type of `features`; computed in float32 at least.
    """
    ph, pw = (output_size, output_size) if isinstance(output_size, int) else output_size
    device = features.device.type
    if torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return pool_boxes(features, boxes, (ph, pw), spatial_scale)
    dtype = torch.promote_types(features.dtype, torch.float32)
    n, channels, height, width = features.shape
    count = boxes.shape[1]
    x0, y0, x1, y1 = (boxes.to(dtype) * spatial_scale).unbind(-1)
    wy = pooling_weights(y0, y1, ph, height)  # (N, P, ph, H)
    wx = pooling_weights(x0, x1, pw, width)  # (N, P, pw, W)
    rows = torch.matmul(wy.flatten(1, 2).unsqueeze(1), features.to(dtype))  # (N, C, P ph, W)
    rows = rows.view(n, channels, count, ph, width).permute(0, 2, 1, 3, 4)
    pooled = torch.matmul(rows.reshape(n, count, channels * ph, width), wx.transpose(-1, -2))
    return pooled.view(n, count, channels, ph, pw).to(features.dtype)


def check_rois(features: Tensor, rois: Tensor) -> None:
    """Check that the arguments of a pooling fit together.

    Raises:
        ValueError: They do not; the message says what was given and what is wanted.
    """
    if features.dim() != 4 or rois.dim() != 2 or rois.shape[1] != 5:
        raise ValueError(
            f"features {tuple(features.shape)} and rois {tuple(rois.shape)} were given, expected "
            "(N, C, H, W) and (R, 5): image index, x0, y0, x1, y1"
        )
    if features.device != rois.device:
        raise ValueError(
            f"features are on {features.device} and rois on {rois.device}; move one to the other"
        )


def prroi_pool(
    features: Tensor, rois: Tensor, output_size: int | tuple[int, int], spatial_scale: float
) -> Tensor:
    """Pool boxes that name their image.

    With several images the map is copied once per RoI; `pool_boxes` does without.

    Args:
        features: (N, C, H, W), any floating type.
        rois: (R, 5) image index (not read if there is one image), x0, y0, x1, y1 in input pixels.
        output_size: Bins along both axes, or (vertically, horizontally).
        spatial_scale: Pixels of the map per input pixel, for example 1 / 16.

    Returns:
        (R, C, ph, pw) in the type of `features`; computed in float32 at least.

    Raises:
        ValueError: The shapes or devices do not fit.
    """
    check_rois(features, rois)
    if features.shape[0] == 1:
        return pool_boxes(features, rois[None, :, 1:], output_size, spatial_scale)[0]
    images = features[rois[:, 0].long()]
    return pool_boxes(images, rois[:, None, 1:], output_size, spatial_scale)[:, 0]
