# SPDX-License-Identifier: Apache-2.0
"""Precise RoI pooling by compiled kernels, as operators that PyTorch knows.

The same function as `prroi_pool.prroi_pool` without temporary storage: no map is copied per RoI,
no product kept. Meant for a GPU; on a CPU, where the same source runs as a plain loop, the matrix
form is several times faster. Importing this module registers the operators
`tracker_ros::prroi_pool`, `::prroi_pool_grad_features` and `::prroi_pool_grad_boxes`. Where
kernels cannot be built they compute the matrix form.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tracker_ros.cuda.library import kernels
from tracker_ros.cuda.prroi_pool import (
    check_rois,
    pooling_weights,
    pooling_weights_with_derivatives,
    prroi_pool,
)


def prroi_pool_kernel(
    features: Tensor, rois: Tensor, output_size: int | tuple[int, int], spatial_scale: float
) -> Tensor:
    """Pool boxes that name their image; first derivatives only.

    Args:
        features: (N, C, H, W), any floating type.
        rois: (R, 5) image index (not read if there is one image), x0, y0, x1, y1 in input pixels;
            an index that is out of range gives zeros.
        output_size: Bins along both axes, or (vertically, horizontally).
        spatial_scale: Pixels of the map per input pixel, for example 1 / 16.

    Returns:
        (R, C, ph, pw) in the type of `features`; computed in float32 at least.

    Raises:
        ValueError: The shapes or devices do not fit.
    """
    check_rois(features, rois)
    ph, pw = (output_size, output_size) if isinstance(output_size, int) else output_size
    dtype = torch.promote_types(features.dtype, torch.float32)
    pooled = _pool(features.to(dtype), rois.to(dtype), ph, pw, spatial_scale)
    return pooled.to(features.dtype)


# Schemas are written out: PyTorch 2.4 cannot read annotations that are strings.
@torch.library.custom_op(
    "tracker_ros::prroi_pool",
    mutates_args=(),
    schema="(Tensor features, Tensor rois, SymInt ph, SymInt pw, float scale) -> Tensor",
)
def _pool(features: Tensor, rois: Tensor, ph: int, pw: int, scale: float) -> Tensor:
    run = kernels("prroi_pool", features.device)
    if run is None:
        return prroi_pool(features, rois, (ph, pw), scale)
    pooled = features.new_empty(len(rois), features.shape[1], ph, pw)
    inputs = features.contiguous(), rois.contiguous()
    run("prroi_pool", pooled.numel(), pooled, *inputs, *features.shape, ph, pw, scale)
    return pooled


@_pool.register_fake
def _(features: Tensor, rois: Tensor, ph: int, pw: int, scale: float) -> Tensor:
    return features.new_empty(rois.shape[0], features.shape[1], ph, pw)


@torch.library.custom_op(
    "tracker_ros::prroi_pool_grad_features",
    mutates_args=(),
    schema="(Tensor grad, Tensor features, Tensor rois, float scale) -> Tensor",
)
def _grad_features(grad: Tensor, features: Tensor, rois: Tensor, scale: float) -> Tensor:
    """Gradient by the features, of which only the shape is used."""
    run = kernels("prroi_pool", grad.device)
    count, _, ph, pw = grad.shape
    if run is None:
        x0, y0, x1, y1 = (rois[:, 1:] * scale).unbind(1)
        wy = pooling_weights(y0, y1, ph, features.shape[2]).unsqueeze(1)
        wx = pooling_weights(x0, x1, pw, features.shape[3]).unsqueeze(1)
        each = wy.transpose(-1, -2) @ grad @ wx  # (R, C, H, W)
        return torch.zeros_like(features).index_add_(0, _images(features, rois), each)
    out = torch.empty_like(features, memory_format=torch.contiguous_format)
    inputs = grad.contiguous(), rois.contiguous()
    shape = (*features.shape, ph, pw)
    run("prroi_pool_grad_features", out.numel(), out, *inputs, count, *shape, scale)
    return out


@_grad_features.register_fake
def _(grad: Tensor, features: Tensor, rois: Tensor, scale: float) -> Tensor:
    return torch.empty_like(features, memory_format=torch.contiguous_format)


@torch.library.custom_op(
    "tracker_ros::prroi_pool_grad_boxes",
    mutates_args=(),
    schema="(Tensor grad, Tensor features, Tensor rois, float scale) -> Tensor",
)
def _grad_boxes(grad: Tensor, features: Tensor, rois: Tensor, scale: float) -> Tensor:
    """Gradient (R, 4) by x0, y0, x1, y1."""
    run = kernels("prroi_pool", grad.device)
    count, channels, ph, pw = grad.shape
    if run is None:
        x0, y0, x1, y1 = (rois[:, 1:] * scale).unbind(1)
        y = pooling_weights_with_derivatives(y0, y1, ph, features.shape[2])
        x = pooling_weights_with_derivatives(x0, x1, pw, features.shape[3])
        maps = features[_images(features, rois)]
        weights = (
            (y.weights, x.by_start),
            (y.by_start, x.weights),
            (y.weights, x.by_end),
            (y.by_end, x.weights),
        )
        changes = [
            wy.unsqueeze(1) @ maps @ wx.unsqueeze(1).transpose(-1, -2) for wy, wx in weights
        ]
        return torch.stack([(grad * change).sum((1, 2, 3)) for change in changes], 1) * scale
    each = grad.new_empty(count, channels, 4)
    inputs = grad.contiguous(), features.contiguous(), rois.contiguous()
    shape = (*features.shape, ph, pw)
    run("prroi_pool_grad_boxes", count * channels, each, *inputs, *shape, scale)
    return each.sum(1)


@_grad_boxes.register_fake
def _(grad: Tensor, features: Tensor, rois: Tensor, scale: float) -> Tensor:
    return grad.new_empty(rois.shape[0], 4)


def _images(features: Tensor, rois: Tensor) -> Tensor:
    """Image of each RoI; with one image the index is not read."""
    index = rois[:, 0].long()
    return torch.zeros_like(index) if features.shape[0] == 1 else index


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, rois, _, _, ctx.scale = inputs
    ctx.save_for_backward(features, rois)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    by_features, by_rois = ctx.needs_input_grad[:2]
    return (
        _grad_features(grad, *saved, ctx.scale) if by_features else None,
        F.pad(_grad_boxes(grad, *saved, ctx.scale), (1, 0)) if by_rois else None,
        None,
        None,
        None,
    )


_pool.register_autograd(_backward, setup_context=_setup_context)
