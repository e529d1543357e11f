# SPDX-License-Identifier: Apache-2.0
"""Colours or labels of a frame, copied from earlier frames whose features are alike.

Paper: Lai, Lu, Xie, CVPR 2020, sections 3.2 and 3.3; see `network.py`. A recent reference is
looked up in a window around each pixel. For one further back, a wide search with a dilated window
first says where the pixel was then; the window is moved there.

What differs on purpose: the official code gathers the labels of every long-term reference where
the last of them was found, and samples half a cell beside it under torch 1.3 and later. Both are
repaired here and can be had back as `PropagationParameters.behaviour`, without the compiled
operators.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tracker_ros.cuda.local_attention import expected_offset, local_attention
from tracker_ros.cuda.local_attention_reference import local_attention_reference
from tracker_ros.models.mast.config import STRIDE, PropagationParameters


@dataclass(frozen=True)
class Reference:
    """An earlier frame.

    Attributes:
        features: (1, C, h, w) float32.
        values: (1, V, h, w) float32, labels one-hot or a colour channel.
        gap: How many frames back.
    """

    features: Tensor
    values: Tensor
    gap: int


def search_dilation(gap: int, parameters: PropagationParameters) -> int:
    """Return the dilation of the search for a reference `gap` frames back; 0 for no search."""
    if gap <= parameters.long_term_gap:
        return 0
    return min(parameters.longest_dilation, gap // parameters.long_term_gap + 1)


def colourise(
    query: Tensor, references: list[Reference], parameters: PropagationParameters
) -> Tensor:
    """Return the values of a frame, read off its references.

    Args:
        query: (1, C, h, w) float32 features of the frame.
        references: In ascending order of frames.
        parameters: Radius, long-term rule and behaviour.

    Returns:
        (1, V, h, w) float32: the references' values under one softmax over all their windows.
        Places outside take part and carry none, so one-hot labels add up to at most 1.
    """
    keys = [reference.features for reference in references]
    values = [reference.values for reference in references]
    radius = parameters.radius
    offsets: list[Tensor | None] = []
    for reference in references:
        dilation = search_dilation(reference.gap, parameters)
        key = reference.features
        offsets.append(expected_offset(query, key, radius, dilation) if dilation else None)
    if parameters.behaviour == "fixed":
        return local_attention(query, keys, values, offsets, radius)
    last = next((offset for offset in reversed(offsets) if offset is not None), None)
    return local_attention_reference(
        query,
        keys,
        values,
        offsets,
        radius,
        value_offsets=[None if offset is None else last for offset in offsets],
        half_pixel=parameters.behaviour == "official_modern",
    )


def cell_labels(labels: Tensor) -> Tensor:
    """(..., H, W) of pixels -> (..., ceil(H / 4), ceil(W / 4)) of cells."""
    return labels[..., ::STRIDE, ::STRIDE]


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """(H, W) labels from 0 to `classes` - 1 -> (classes, H, W) float32."""
    every = torch.arange(classes, device=labels.device)[:, None, None]
    return (labels[None] == every).float()


def strongest(soft: Tensor) -> Tensor:
    """(V, H, W) soft labels -> (H, W) uint8, the first of the highest.

    The result is that of `argmax`, which on a CPU takes ten times as long along the first axis.
    """
    labels = torch.zeros(soft.shape[1:], dtype=torch.uint8, device=soft.device)
    highest = soft[0]
    for label in range(1, len(soft)):
        labels.masked_fill_(soft[label] > highest, label)
        highest = torch.maximum(highest, soft[label])
    return labels


def spread_cells(
    soft: Tensor, working: tuple[int, int], size: tuple[int, int], *, aligned: bool
) -> Tensor:
    """Interpolate (1, V, h, w) soft labels of cells at the pixels of an image: (1, V, *size).

    The cells are those of the `working` image; both sizes are height and width in pixels. If
    `aligned`, cell k belongs to pixel 4 k of the working image; else it covers an h-th of it.
    """
    if not aligned:
        return F.interpolate(soft, size=size, mode="bilinear", align_corners=False)
    for axis in (0, 1):
        pixel = torch.arange(size[axis], dtype=torch.float32, device=soft.device)
        in_working = (pixel + 0.5) * (working[axis] / size[axis]) - 0.5
        last = soft.shape[2 + axis] - 1
        cell = (in_working / STRIDE).clamp(0, last)
        low = cell.floor().clamp(max=max(last - 1, 0))
        share = (cell - low).to(soft.dtype).view((-1, 1) if axis == 0 else (1, -1))
        before = soft.index_select(2 + axis, low.long())
        after = soft.index_select(2 + axis, (low.long() + 1).clamp(max=last))
        soft = torch.lerp(before, after, share)
    return soft
