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
import torch.nn.functional as F
from torch import Tensor

from tracker_ros.cuda.build import Kernels, kernels
from tracker_ros.cuda.local_attention_reference import (
    expected_offset_reference,
    local_attention_reference,
)

# As in kernels/local_attention.cuh.
_MARGIN = 32
_MAX_VALUES = 8
_CHANNELS_AT_ONCE = 4


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
    batch, _, height, width = query.shape
    for what, maps in (("key", keys), ("value", values)):
        for one in maps:
            fits = one.dim() == 4 and (one.shape[0], *one.shape[2:]) == (batch, height, width)
            if not fits or (what == "key" and one.shape != query.shape):
                raise ValueError(
                    f"a {what} has shape {tuple(one.shape)}; expected that of the query, "
                    f"{tuple(query.shape)}{'' if what == 'key' else ' apart from the channels'}"
                )
    for offset in offsets:
        if offset is not None and offset.shape != (batch, height, width, 2):
            raise ValueError(
                f"an offset has shape {tuple(offset.shape)}; expected {(batch, height, width, 2)}"
            )
    if not len(keys) == len(values) == len(offsets) > 0:
        raise ValueError(
            f"got {len(keys)} keys, {len(values)} values and {len(offsets)} offsets; expected one "
            "of each for every reference"
        )
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
    if query.dim() != 4 or key.shape != query.shape:
        raise ValueError(
            f"key has shape {tuple(key.shape)}; expected that of the query, {tuple(query.shape)}"
        )
    return _expect(query, key, radius, dilation)


def _kernels_for(maps: Tensor, radius: int) -> Kernels | None:
    return kernels("local_attention", maps.device) if 2 * radius + 2 <= _MARGIN else None


def _by_line(maps: Tensor) -> Tensor:
    """Lay (..., C, H, W) out as (..., H, C, pitch), each line between zeros, for the kernels."""
    return F.pad(maps.transpose(-3, -2), (_MARGIN, _MARGIN)).contiguous()


def _whole_channels(maps: Tensor) -> Tensor:
    """Add zero channels to (..., C, H, W) up to a number that the kernels can take."""
    missing = -maps.shape[-3] % _CHANNELS_AT_ONCE
    return F.pad(maps, (0, 0, 0, 0, 0, missing)) if missing else maps


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
    batch, references, classes, height, width = values.shape
    query, keys = _whole_channels(query), _by_line(_whole_channels(keys))
    query, offsets = query.permute(0, 2, 3, 1).contiguous(), offsets.contiguous()
    parts = []
    for some in values.split(_MAX_VALUES, dim=2):
        out = query.new_empty(batch, some.shape[2], height, width)
        sizes = references, query.shape[3], some.shape[2], height, width, keys.shape[-1], radius
        run(
            "local_attention", batch * height * width,
            out, query, keys, _by_line(some), offsets, *sizes,
        )  # fmt: skip
        parts.append(out)
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


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
    size = int(query.shape[2]), int(query.shape[3])
    query, key = (_interleaved(_whole_channels(maps), dilation) for maps in (query, key))
    maps, _, rows, columns = query.shape
    lines, query = _by_line(key), query.permute(0, 2, 3, 1).contiguous()
    out = query.new_empty(maps, rows, columns, 2)
    sizes = query.shape[3], rows, columns, lines.shape[-1], radius
    run("expected_offset", maps * rows * columns, out, query, lines, *sizes)
    return _woven(out, size, dilation) * dilation


def _interleaved(maps: Tensor, dilation: int) -> Tensor:
    """Split (B, C, H, W) into (B d d, C, H / d, W / d), so that dilated windows become dense.

    Zeros fill up maps that d does not divide; they count like pixels outside.
    """
    missing = (-maps.shape[3] % dilation, -maps.shape[2] % dilation)
    padded = F.pad(maps, (0, missing[0], 0, missing[1]))
    batch, channels, height, width = padded.shape
    parts = padded.view(batch, channels, height // dilation, dilation, width // dilation, dilation)
    return parts.permute(0, 3, 5, 1, 2, 4).flatten(0, 2)


def _woven(maps: Tensor, size: tuple[int, int], dilation: int) -> Tensor:
    """Join (B d d, H / d, W / d, 2) to (B, *size, 2), the inverse of `_interleaved`."""
    parts = maps.unflatten(0, (-1, dilation, dilation)).permute(0, 3, 1, 4, 2, 5)
    whole = parts.flatten(3, 4).flatten(1, 2)
    return whole[:, : size[0], : size[1]].contiguous()


@_expect.register_fake
def _(query: Tensor, key: Tensor, radius: int, dilation: int) -> Tensor:
    batch, _, height, width = query.shape
    return query.new_empty(batch, height, width, 2)
