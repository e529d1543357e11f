# SPDX-License-Identifier: Apache-2.0
"""Attention over windows of reference maps, by compiled kernels that store no scores.

A pixel's feature is compared with the features in a window of every reference; one softmax over
all those windows weights the references' values. Windows may be displaced pixel by pixel, and are
then sampled bilinearly. Pixels outside a map have a score of 0 and no value, so that weights add
up to less than one near borders.

Paper: Lai, Lu, Xie, "MAST: A Memory-Augmented Self-Supervised Tracker", CVPR 2020, sections 3.2
and 3.3 (https://arxiv.org/abs/2002.07793). Written anew. Importing this module registers the
operators `tracker_ros::local_attention` and `::expected_offset`. Where kernels cannot be built, or
windows are wider than the kernels allow, plain torch computes the same in bands of rows
(`local_attention_reference.py`), which also has gradients; the operators, made for inference, have
none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tracker_ros.cuda.build import Kernels, kernels
from tracker_ros.cuda.local_attention_kernel import (
    attend_by_kernel,
    check_key,
    check_references,
    expect_by_kernel,
    fits_kernel,
)
from tracker_ros.cuda.local_attention_reference import (
    expected_offset_reference,
    local_attention_reference,
)


def local_attention(
    query: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    offsets: Sequence[Tensor | None],
    radius: int,
) -> Tensor:
    """Look up the value of every pixel in windows of all references, under one softmax.

    Args:
        query: (B, C, H, W) float32 or float64.
        keys: Of each reference, (B, C, H, W).
        values: Of each reference, (B, V, H, W).
        offsets: Of each reference, (B, H, W, 2) pixels (dx, dy) by which windows are displaced, or
            None.
        radius: Pixels on each side of a window's middle.

    Returns:
        (B, V, H, W). Raises ValueError if shapes do not fit.
    """
    check_references(query, keys, values, offsets)
    batch, _, height, width = query.shape
    still = query.new_zeros(batch, height, width, 2)
    displaced = [still if offset is None else offset for offset in offsets]
    stacks = (torch.stack(list(maps), dim=1) for maps in (keys, values, displaced))
    return _attend(query, *stacks, radius)


def expected_offset(query: Tensor, key: Tensor, radius: int, dilation: int) -> Tensor:
    """Return where in a dilated window the pixels like each pixel lie on average.

    Query and key are (B, C, H, W) float32 or float64; the window has `radius` places on each side
    of its middle, `dilation` pixels apart. Returns (B, H, W, 2), the mean (dx, dy) in pixels,
    weighted by a softmax. Raises ValueError if shapes do not fit.
    """
    check_key(query, key)
    return _expect(query, key, radius, dilation)


def _kernels_for(maps: Tensor, radius: int) -> Kernels | None:
    return kernels("local_attention", maps.device) if fits_kernel(radius) else None


# Schemas are written out: PyTorch 2.4 cannot read annotations that are strings.
@torch.library.custom_op(
    "tracker_ros::local_attention",
    mutates_args=(),
    schema="(Tensor query, Tensor keys, Tensor values, Tensor offsets, SymInt radius) -> Tensor",
)
def _attend(query: Tensor, keys: Tensor, values: Tensor, offsets: Tensor, radius: int) -> Tensor:
    """Compute `local_attention` of references stacked on axis 1."""
    run = _kernels_for(query, radius)
    if run is None:
        return local_attention_reference(
            query, keys.unbind(1), values.unbind(1), offsets.unbind(1), radius
        )
    return attend_by_kernel(run, query, keys, values, offsets, radius)


@_attend.register_fake
def _(query: Tensor, keys: Tensor, values: Tensor, offsets: Tensor, radius: int) -> Tensor:
    return query.new_empty(values.shape[0], *values.shape[2:])


@torch.library.custom_op(
    "tracker_ros::expected_offset",
    mutates_args=(),
    schema="(Tensor query, Tensor key, SymInt radius, SymInt dilation) -> Tensor",
)
def _expect(query: Tensor, key: Tensor, radius: int, dilation: int) -> Tensor:
    run = _kernels_for(query, radius)
    if run is None:
        return expected_offset_reference(query, key, radius, dilation)
    return expect_by_kernel(run, query, key, radius, dilation)


@_expect.register_fake
def _(query: Tensor, key: Tensor, radius: int, dilation: int) -> Tensor:
    batch, _, height, width = query.shape
    return query.new_empty(batch, height, width, 2)
