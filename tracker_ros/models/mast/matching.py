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

from torch import Tensor

from tracker_ros.cuda.local_attention import expected_offset, local_attention
from tracker_ros.cuda.local_attention_reference import local_attention_reference
from tracker_ros.models.mast.config import PropagationParameters


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
    """Dilation of the search for a reference `gap` frames back; 0 for no search."""
    if gap <= parameters.long_term_gap:
        return 0
    return min(parameters.longest_dilation, gap // parameters.long_term_gap + 1)


def colourise(
    query: Tensor, references: list[Reference], parameters: PropagationParameters
) -> Tensor:
    """Values of a frame, from those of its references.

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
