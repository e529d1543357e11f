# SPDX-License-Identifier: Apache-2.0
"""Colours or labels of a frame, copied from earlier frames whose features are alike.

Paper: Lai, Lu, Xie, CVPR 2020, sections 3.2 and 3.3; see `network.py`. A recent reference is
looked up in a window around each pixel. For one further back, a wide search with a dilated window
first says where the pixel was then; the window is moved there.

What differs on purpose: the official code gathers the labels of every long-term reference where
the last of them was found, and samples half a cell beside it under torch 1.3 and later. Both are
repaired here and can be had back as `PropagationParameters.behaviour`, without the compiled
operators.

Features and labels are torch tensors, or NumPy arrays where ONNX Runtime computes the features.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tracker_ros.arrays import Array, is_numpy, library_of, like
from tracker_ros.models.layers.bilinear import Neighbours, interpolate, neighbours, resized
from tracker_ros.models.mast.config import STRIDE, PropagationParameters


@dataclass(frozen=True)
class Reference:
    """An earlier frame.

    Attributes:
        features: (1, C, h, w) float32.
        values: (1, V, h, w) float32, labels one-hot or a colour channel.
        gap: How many frames back.
    """

    features: Array
    values: Array
    gap: int


def search_dilation(gap: int, parameters: PropagationParameters) -> int:
    """Return the dilation of the search for a reference `gap` frames back; 0 for no search."""
    if gap <= parameters.long_term_gap:
        return 0
    return min(parameters.longest_dilation, gap // parameters.long_term_gap + 1)


def colourise(
    query: Array, references: list[Reference], parameters: PropagationParameters
) -> Array:
    """Return the values of a frame, read off its references.

    Args:
        query: (1, C, h, w) float32 features of the frame.
        references: In ascending order of frames.
        parameters: Radius, long-term rule and behaviour.

    Returns:
        (1, V, h, w) float32: the references' values under one softmax over all their windows.
        Places outside take part and carry none, so one-hot labels add up to at most 1.
    """
    attention = importlib.import_module(
        f"tracker_ros.cuda.local_attention{'_numpy' if is_numpy(query) else ''}"
    )
    keys = [reference.features for reference in references]
    values = [reference.values for reference in references]
    radius = parameters.radius
    offsets: list[Array | None] = []
    for reference in references:
        dilation = search_dilation(reference.gap, parameters)
        key = reference.features
        offsets.append(
            attention.expected_offset(query, key, radius, dilation) if dilation else None
        )
    if parameters.behaviour == "fixed":
        return attention.local_attention(query, keys, values, offsets, radius)
    from tracker_ros.cuda.local_attention_reference import local_attention_reference

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


def cell_labels(labels: Array) -> Array:
    """(..., H, W) of pixels -> (..., ceil(H / 4), ceil(W / 4)) of cells."""
    return labels[..., ::STRIDE, ::STRIDE]


def one_hot(labels: Array, classes: int) -> Array:
    """(H, W) uint8 labels from 0 to `classes` - 1 -> (classes, H, W) float32."""
    every = like(np.arange(classes, dtype=np.uint8)[:, None, None], labels)
    same = labels[None] == every
    return same.astype(np.float32) if is_numpy(labels) else same.float()


def strongest(soft: Array) -> Array:
    """(V, H, W) soft labels -> (H, W) uint8, the first of the highest.

    The result is that of `argmax`, which on a CPU takes ten times as long along the first axis.
    """
    labels = like(np.zeros(tuple(soft.shape[1:]), np.uint8), soft)
    highest = soft[0]
    for label in range(1, len(soft)):
        labels[soft[label] > highest] = label
        highest = library_of(soft).maximum(highest, soft[label])
    return labels


def spread_cells(
    soft: Array, working: tuple[int, int], size: tuple[int, int], *, aligned: bool
) -> Array:
    """Interpolate (1, V, h, w) soft labels of cells at the pixels of an image: (1, V, *size).

    The cells are those of the `working` image; both sizes are height and width in pixels. If
    `aligned`, cell k belongs to pixel 4 k of the working image; else it covers an h-th of it.
    """
    cells = (int(soft.shape[2]), int(soft.shape[3]))
    places = _aligned if aligned else _covering
    rows, columns = (places(cells[axis], working[axis], size[axis]) for axis in (0, 1))
    return interpolate(soft, rows, columns)


def _covering(cells: int, working: int, size: int) -> Neighbours:
    return resized(cells, size)


@lru_cache(maxsize=16)
def _aligned(cells: int, working: int, size: int) -> Neighbours:
    pixel = np.arange(size, dtype=np.float32)
    in_working = (pixel + np.float32(0.5)) * np.float32(working / size) - np.float32(0.5)
    return neighbours(in_working / np.float32(STRIDE), cells)
