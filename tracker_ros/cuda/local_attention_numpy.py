# SPDX-License-Identifier: Apache-2.0
"""The operators of `local_attention.py` for NumPy arrays, without torch.

The same compiled kernels compute them. Where these cannot be built, or windows are wider than they
allow, NumPy does: slower, by one product of all pixels with their neighbours for each place of a
window. A displacement is the same for a whole window, so scores between pixels are interpolated
from scores at pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tracker_ros.cuda.build import Kernels, kernels
from tracker_ros.cuda.local_attention_kernel import (
    attend_by_kernel,
    check_key,
    check_references,
    expect_by_kernel,
    fits_kernel,
)


def local_attention(
    query: np.ndarray,
    keys: Sequence[np.ndarray],
    values: Sequence[np.ndarray],
    offsets: Sequence[np.ndarray | None],
    radius: int,
) -> np.ndarray:
    """Compute `local_attention.local_attention` of arrays of one image (batch size 1)."""
    check_references(query, keys, values, offsets)
    _, _, height, width = query.shape
    still = np.zeros((1, height, width, 2), query.dtype)
    displaced = [still if offset is None else offset for offset in offsets]
    run = _kernels_for(radius)
    if run is not None:
        key, value, offset = (np.stack(list(maps), axis=1) for maps in (keys, values, displaced))
        found: np.ndarray = attend_by_kernel(run, query, key, value, offset, radius)
        return found
    windows = [_Windows(offset[0], radius, 1) for offset in displaced]
    pixels = _by_pixel(query)
    scores = [w.scores(pixels, _by_pixel(key)) for w, key in zip(windows, keys, strict=True)]
    weights = _softmax(scores)
    total = sum(
        w.gathered(weight, _by_pixel(value))
        for w, weight, value in zip(windows, weights, values, strict=True)
    )
    return np.ascontiguousarray(np.transpose(total)).reshape(1, -1, height, width)


def expected_offset(query: np.ndarray, key: np.ndarray, radius: int, dilation: int) -> np.ndarray:
    """Compute `local_attention.expected_offset` of arrays of one image (batch size 1)."""
    check_key(query, key)
    run = _kernels_for(radius)
    if run is not None:
        found: np.ndarray = expect_by_kernel(run, query, key, radius, dilation)
        return found
    _, _, height, width = query.shape
    windows = _Windows(np.zeros((height, width, 2), query.dtype), radius, dilation)
    (weights,) = _softmax([windows.scores(_by_pixel(query), _by_pixel(key))])
    steps = np.arange(-radius, radius + 1).astype(query.dtype) * dilation
    weights = weights.reshape(len(steps), len(steps), height, width)
    across, down = (np.tensordot(steps, weights.sum(axis), (0, 0)) for axis in (0, 1))
    return np.stack([across, down], axis=-1)[None]


def _kernels_for(radius: int) -> Kernels | None:
    return kernels("local_attention", "cpu") if fits_kernel(radius) else None


def _by_pixel(maps: np.ndarray) -> np.ndarray:
    """(1, C, H, W) -> (H * W, C)."""
    return np.ascontiguousarray(maps[0].reshape(maps.shape[1], -1).T)


def _softmax(scores: list[np.ndarray]) -> list[np.ndarray]:
    """Return the softmax over the first axes of all arrays together."""
    highest = np.max([score.max(axis=0) for score in scores], axis=0)
    weights = [np.exp(score - highest) for score in scores]
    total = sum(weight.sum(axis=0) for weight in weights)
    return [weight / total for weight in weights]


class _Windows:
    """The windows around the pixels of a map, displaced by (H, W, 2) pixels (dx, dy).

    A window has `radius` places on each side of its middle, `dilation` pixels apart.
    """

    def __init__(self, offset: np.ndarray, radius: int, dilation: int) -> None:
        height, width, _ = offset.shape
        self._size, self._dilation = (height, width), dilation
        self._side = 2 * radius + 1
        # What is not finite, or far away, is outside the map.
        reach = float(height + width + 2 * radius * dilation)
        offset = np.clip(np.nan_to_num(offset, nan=reach), -reach, reach)
        whole = np.floor(offset)
        self._fraction = (offset - whole).reshape(-1, 2)
        between = bool(self._fraction.any())
        first = -radius * dilation
        rows, columns = np.indices((height, width))
        self._top = (rows + whole[..., 1].astype(np.int64) + first).ravel()
        self._left = (columns + whole[..., 0].astype(np.int64) + first).ravel()
        self._places = self._side + between

    def _positions(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield each place of a window, and the pixel there, H * W for outside."""
        height, width = self._size
        for i in range(self._places):
            row = self._top + i * self._dilation
            for j in range(self._places):
                column = self._left + j * self._dilation
                inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                yield i, j, np.where(inside, row * width + column, height * width)

    def _shares(self) -> list[tuple[slice, slice, np.ndarray | float]]:
        """Return which places, shifted by one, count how much."""
        start, end = slice(0, self._side), slice(1, self._side + 1)
        if self._places == self._side:
            return [(start, start, 1.0)]
        x, y = self._fraction.T
        return [
            (start, start, (1 - y) * (1 - x)),
            (start, end, (1 - y) * x),
            (end, start, y * (1 - x)),
            (end, end, y * x),
        ]

    def scores(self, query: np.ndarray, key: np.ndarray) -> np.ndarray:
        """(P, C) pixels, (P, C) of the reference -> (side * side, P) products."""
        outside = np.vstack([key, np.zeros_like(key[:1])])
        found = np.empty((self._places, self._places, len(query)), query.dtype)
        for i, j, place in self._positions():
            np.einsum("pc,pc->p", query, outside[place], out=found[i, j])
        total = sum(share * found[rows, columns] for rows, columns, share in self._shares())
        return np.asarray(total).reshape(self._side**2, -1)

    def gathered(self, weights: np.ndarray, value: np.ndarray) -> np.ndarray:
        """(side * side, P) weights, (P, V) of the reference -> (P, V) weighted sums."""
        outside = np.vstack([value, np.zeros_like(value[:1])])
        weights = weights.reshape(self._side, self._side, -1)
        spread = np.zeros((self._places, self._places, weights.shape[-1]), weights.dtype)
        for rows, columns, share in self._shares():
            spread[rows, columns] += share * weights
        total = np.zeros_like(value)
        for i, j, place in self._positions():
            total += spread[i, j][:, None] * outside[place]
        return total
