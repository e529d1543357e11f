# SPDX-License-Identifier: Apache-2.0
"""Precise RoI pooling in closed form: the exact mean of the bilinear surface over every bin.

Bilinear interpolation weights a pixel by a hat function along each axis, so the mean over a bin is
a product of two means over an interval, and the pooled map is `Wy F Wx^T`, two matrix products per
box: no compiled code, differentiable in features and boxes, exportable. A compiled kernel computes
the same without temporary storage; `fastest_prroi_pool` measures which of the two to take.

Pixel (y, x) of the map sits at the coordinate (y, x), without a half-pixel shift, and the map is
zero outside. A box without area (also one of negative width) gives zeros and passes no gradient.

Paper: Jiang et al., "Acquisition of Localization Confidence for Accurate Object Detection", ECCV
2018; official kernels: https://github.com/vacancy/PreciseRoIPooling. Written anew from the
definition.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tracker_ros.cuda.build import kernels

_REPEATS = 20
_LOG = logging.getLogger(__name__)


class AxisWeights(NamedTuple):
    """Pooling weights along one axis, and their derivatives; each (..., bins, size)."""

    weights: Tensor
    by_start: Tensor
    by_end: Tensor


def _hat_integral(u: Tensor) -> Tensor:
    """Integrate max(0, 1 - |t|) from 0 to u; the autograd slope is right at u = 0 too."""
    c = u.clamp(-1.0, 1.0)
    return c - c * c.abs() / 2


def _offsets(start: Tensor, end: Tensor, bins: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return edges minus pixels (..., bins + 1, size), bin width (..., 1, 1), and where it exists.

    Empty intervals are replaced by the unit interval, which keeps nan out of their gradients.
    """
    # Whole pixels are subtracted first: far from 0, float32 would lose the width of tiny bins.
    origin = start.detach().floor()
    start, end = start - origin, end - origin
    # Decided only now: just below a whole pixel, rounding may have left no width.
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
    """Return the weight of every pixel in the mean over every bin, along one axis.

    The intervals (...) from `start` to `end`, in pixels, have `bins` equal parts; the map has
    pixels at 0 .. size - 1. Returns (..., bins, size), zeros for an interval that does not end
    after it starts.
    """
    offsets, width, valid = _offsets(start, end, bins, size)
    weights = _hat_integral(offsets).diff(dim=-2) / width
    return torch.where(valid, weights, torch.zeros_like(weights))


def pooling_weights_with_derivatives(
    start: Tensor, end: Tensor, bins: int, size: int
) -> AxisWeights:
    """Return `pooling_weights` and their derivatives by both ends of the interval.

    With pooled = Wy F Wx^T, the derivative of a pooled map by x0 is Wy F (dWx/dx0)^T, and so on.
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


def pool_boxes(features: Tensor, boxes: Tensor, bins: int, spatial_scale: float) -> Tensor:
    """Pool the same number of boxes from each image; differentiable and exportable.

    Features are (N, C, H, W) of any floating type, boxes (N, P, 4) x0, y0, x1, y1 in input pixels,
    of which a pixel of the map is `1 / spatial_scale`. Returns (N, P, C, bins, bins) in the type
    of the features, computed in float32 at least.
    """
    device = features.device.type
    if torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return pool_boxes(features, boxes, bins, spatial_scale)
    dtype = torch.promote_types(features.dtype, torch.float32)
    n, channels, height, width = features.shape
    count = boxes.shape[1]
    x0, y0, x1, y1 = (boxes.to(dtype) * spatial_scale).unbind(-1)
    wy = pooling_weights(y0, y1, bins, height)  # (N, P, bins, H)
    wx = pooling_weights(x0, x1, bins, width)
    rows = torch.matmul(wy.flatten(1, 2).unsqueeze(1), features.to(dtype))  # (N, C, P bins, W)
    rows = rows.view(n, channels, count, bins, width).permute(0, 2, 1, 3, 4)
    pooled = torch.matmul(rows.reshape(n, count, channels * bins, width), wx.transpose(-1, -2))
    return pooled.view(n, count, channels, bins, bins).to(features.dtype)


class Pooled(NamedTuple):
    """What boxes show of one map."""

    values: Tensor  # (P, bins, bins, C); rows of bins from top to bottom
    # turns the gradient by the values, of their shape, into that by the boxes, (P, 4) by x0, y0,
    # x1, y1
    box_gradient: Callable[[Tensor], Tensor]


MapPool = Callable[[Tensor, Tensor, int], Pooled]
"""A form of the pooling; see `pool_by_matrix` for its arguments."""


def pool_by_matrix(cells: Tensor, boxes: Tensor, bins: int) -> Pooled:
    """Pool boxes (P, 4) x0, y0, x1, y1 in cells from one map (H, W, C) by matrix products."""
    x0, y0, x1, y1 = boxes.unbind(1)
    y = pooling_weights_with_derivatives(y0, y1, bins, cells.shape[0])
    x = pooling_weights_with_derivatives(x0, x1, bins, cells.shape[1])
    return pool_by_weights(cells, x, y)


def pool_by_weights(cells: Tensor, x: AxisWeights, y: AxisWeights) -> Pooled:
    """Pool P boxes from one map (H, W, C), given their weights (P, bins, size); exportable."""
    count, bins, height = y.weights.shape
    width, channels = cells.shape[1:]
    by_row = cells.view(height, -1)
    rows = y.weights.flatten(0, 1) @ by_row
    rows = rows.view(count, bins, width, channels)

    def box_gradient(slope: Tensor) -> Tensor:
        by_columns = (slope @ rows.transpose(2, 3)).sum(1)
        spread = x.weights.transpose(1, 2)[:, None] @ slope
        by_rows = (spread.view(count * bins, -1) @ by_row.t()).view(count, bins, -1)
        x0, x1 = ((by_columns * d).sum((1, 2)) for d in (x.by_start, x.by_end))
        y0, y1 = ((by_rows * d).sum((1, 2)) for d in (y.by_start, y.by_end))
        return torch.stack([x0, y0, x1, y1], dim=1)

    return Pooled(x.weights[:, None] @ rows, box_gradient)


def compiled_pool(device: torch.device) -> MapPool | None:
    """Return the pooling by compiled kernels, or None where they cannot be built.

    It stores nothing but its result and takes one launch. On a CPU, where the same source runs as
    a plain loop, the matrix form is several times faster.
    """
    run = kernels("prroi_pool", device)
    if run is None:
        return None

    def pool(cells: Tensor, boxes: Tensor, bins: int) -> Pooled:
        cells, boxes = cells.contiguous(), boxes.contiguous()
        count, channels = len(boxes), cells.shape[2]
        values = cells.new_empty(count, bins, bins, channels)
        run("prroi_pool", values.numel(), values, cells, boxes, *cells.shape, bins)

        def box_gradient(slope: Tensor) -> Tensor:
            out = cells.new_empty(count, 4, channels)
            given = slope.contiguous(), cells, boxes
            run("prroi_pool_grad_boxes", count * channels, out, *given, *cells.shape, bins)
            return out.sum(2)

        return Pooled(values, box_gradient)

    return pool


def fastest_prroi_pool(
    device: torch.device, maps: Sequence[tuple[int, int, int, int]], boxes: int
) -> MapPool:
    """Return the form of the pooling that is faster on a device.

    On a GPU both forms are timed and compared, and one line of the log tells the outcome. On a CPU
    the matrix form is returned without measuring. A step pools `boxes` from each of the maps,
    given by height, width, channels and bins.
    """
    compiled = compiled_pool(device) if device.type == "cuda" else None
    if compiled is None:
        return pool_by_matrix
    try:
        by_matrix = _seconds(pool_by_matrix, device, maps, boxes)
        by_kernel = _seconds(compiled, device, maps, boxes)
    except RuntimeError as error:
        _LOG.warning("boxes are pooled by matrix products: the compiled kernel failed: %s", error)
        return pool_by_matrix
    _LOG.info(
        "boxes are pooled by %s: a step took %.3f ms by matrix products and %.3f ms by the kernel",
        "matrix products" if by_matrix <= by_kernel else "the compiled kernel",
        1e3 * by_matrix,
        1e3 * by_kernel,
    )
    return pool_by_matrix if by_matrix <= by_kernel else compiled


@torch.inference_mode()
def _seconds(
    pool: MapPool, device: torch.device, maps: Sequence[tuple[int, int, int, int]], boxes: int
) -> float:
    """Return the median time of a step: pooling from every map, with the gradient by the boxes.

    Raises RuntimeError if the kernel failed, or does not equal the matrix form.
    """
    generator = torch.Generator().manual_seed(0)
    cases = []
    for height, width, channels, bins in maps:
        cells = torch.randn(height, width, channels, generator=generator)
        corners = torch.rand(boxes, 2, 2, generator=generator).sort(dim=1).values
        places = (corners * torch.tensor([width, height])).flatten(1)
        cases.append((cells.to(device), places.to(device), bins))

    def step() -> list[Tensor]:
        pooled = [pool(*case) for case in cases]
        return [p.box_gradient(p.values) for p in pooled] + [p.values for p in pooled]

    wanted = [pool_by_matrix(*case).values for case in cases]
    for found, values in zip(step()[len(cases) :], wanted, strict=True):
        if not torch.allclose(found, values, rtol=1e-3, atol=1e-3):
            raise RuntimeError("it does not equal the matrix form")
    times = []
    for _ in range(_REPEATS):
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        step()
        torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)
