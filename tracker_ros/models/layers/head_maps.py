# SPDX-License-Identifier: Apache-2.0
"""The maps that a centre head returns, as torch tensors or as NumPy arrays of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tracker_ros.arrays import Array, concatenate, to_numpy


class HeadMaps(NamedTuple):
    """Maps over the n x n search grid."""

    score: Array  # (B, 1, n, n) in [1e-4, 1 - 1e-4]
    size: Array  # (B, 2, n, n) width and height as fractions of the search crop, same range
    offset: Array  # (B, 2, n, n) x and y of the centre within its cell, in cells, unbounded


def read_maps(outputs: Mapping[str, Array]) -> HeadMaps:
    """Return the maps among a graph's outputs by name."""
    return HeadMaps(*(outputs[name] for name in HeadMaps._fields))


def maps_from(maps: HeadMaps) -> np.ndarray:
    """Return (B, 5, n, n) float32 on the host: score, width, height, x and y.

    They are joined because one transfer from a GPU costs less than several small ones.
    """
    joined = concatenate(maps, 1)
    return to_numpy(joined if isinstance(joined, np.ndarray) else joined.float())
