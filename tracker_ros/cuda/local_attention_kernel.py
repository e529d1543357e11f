# SPDX-License-Identifier: Apache-2.0
"""Lays maps out for the kernels of `kernels/local_attention.cuh`, and calls them.

Maps are NumPy arrays or torch tensors; results are what was given. What the kernels compute is
described in `local_attention.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from tracker_ros.arrays import Array, concatenate, contiguous, library_of, padded, zeros
from tracker_ros.cuda.build import Kernels

# As in kernels/local_attention.cuh.
_MARGIN = 32
_MAX_VALUES = 8
_CHANNELS_AT_ONCE = 4


def fits_kernel(radius: int) -> bool:
    """Tell whether the kernels can take windows of this radius."""
    return 2 * radius + 2 <= _MARGIN


def check_references(
    query: Array,
    keys: Sequence[Array],
    values: Sequence[Array],
    offsets: Sequence[Array | None],
) -> None:
    """Check the shapes of `local_attention`'s arguments; raises ValueError."""
    batch, _, height, width = query.shape
    for what, maps in (("key", keys), ("value", values)):
        for one in maps:
            fits = one.ndim == 4 and (one.shape[0], *one.shape[2:]) == (batch, height, width)
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


def check_key(query: Array, key: Array) -> None:
    """Check the shapes of `expected_offset`'s arguments; raises ValueError."""
    if query.ndim != 4 or key.shape != query.shape:
        raise ValueError(
            f"key has shape {tuple(key.shape)}; expected that of the query, {tuple(query.shape)}"
        )


def attend_by_kernel(
    run: Kernels, query: Array, keys: Array, values: Array, offsets: Array, radius: int
) -> Array:
    """Compute `local_attention` of references stacked on axis 1."""
    batch, references, classes, height, width = values.shape
    query, keys = _whole_channels(query), _by_line(_whole_channels(keys))
    query, offsets = contiguous(library_of(query).moveaxis(query, 1, -1)), contiguous(offsets)
    parts = []
    for start in range(0, classes, _MAX_VALUES):
        some = values[:, :, start : start + _MAX_VALUES]
        out = zeros((batch, some.shape[2], height, width), query)
        sizes = references, query.shape[3], some.shape[2], height, width, keys.shape[-1], radius
        run(
            "local_attention", batch * height * width,
            out, query, keys, _by_line(some), offsets, *sizes,
        )  # fmt: skip
        parts.append(out)
    return concatenate(parts, 1) if len(parts) > 1 else parts[0]


def expect_by_kernel(run: Kernels, query: Array, key: Array, radius: int, dilation: int) -> Array:
    """Compute `expected_offset`."""
    size = int(query.shape[2]), int(query.shape[3])
    query, key = (_interleaved(_whole_channels(maps), dilation) for maps in (query, key))
    maps, _, rows, columns = query.shape
    lines, query = _by_line(key), contiguous(library_of(query).moveaxis(query, 1, -1))
    out = zeros((maps, rows, columns, 2), query)
    sizes = query.shape[3], rows, columns, lines.shape[-1], radius
    run("expected_offset", maps * rows * columns, out, query, lines, *sizes)
    return _woven(out, size, dilation) * dilation


def _by_line(maps: Array) -> Array:
    """Lay (..., C, H, W) out as (..., H, C, pitch), each line between zeros, for the kernels."""
    return contiguous(padded(maps.swapaxes(-3, -2), (_MARGIN, _MARGIN)))


def _whole_channels(maps: Array) -> Array:
    """Add zero channels to (..., C, H, W) up to a number that the kernels can take."""
    missing = -maps.shape[-3] % _CHANNELS_AT_ONCE
    return padded(maps, (0, missing), (0, 0), (0, 0)) if missing else maps


def _interleaved(maps: Array, dilation: int) -> Array:
    """Split (B, C, H, W) into (B d d, C, H / d, W / d), so that dilated windows become dense.

    Zeros fill up maps that d does not divide; they count like pixels outside.
    """
    missing = (-maps.shape[2] % dilation, -maps.shape[3] % dilation)
    filled = padded(maps, (0, missing[0]), (0, missing[1]))
    batch, channels, height, width = filled.shape
    rows, columns = height // dilation, width // dilation
    parts = filled.reshape(batch, channels, rows, dilation, columns, dilation)
    parts = library_of(parts).moveaxis(parts, (3, 5), (1, 2))
    return parts.reshape(batch * dilation**2, channels, rows, columns)


def _woven(maps: Array, size: tuple[int, int], dilation: int) -> Array:
    """Join (B d d, H / d, W / d, 2) to (B, *size, 2), the inverse of `_interleaved`."""
    rows, columns = maps.shape[1:3]
    parts = maps.reshape(-1, dilation, dilation, rows, columns, 2)
    parts = library_of(parts).moveaxis(parts, (1, 2), (2, 4))
    whole = parts.reshape(len(parts), rows * dilation, columns * dilation, 2)
    return contiguous(whole[:, : size[0], : size[1]])
