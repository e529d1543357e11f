# SPDX-License-Identifier: Apache-2.0
"""Say which pixels of a picture of masks belong to which object.

Such pictures come in several forms. All doors of the package (files, messages, arrays) read them
by the rules of `label_map`:

| Form | How it is known | Objects |
| --- | --- | --- |
| mask | one value beside 0: 1, 255, 300 … | one |
| label map | few values, in areas | each value; 255 beside labels up to 64 is *void*, no object |
| soft mask | many values, or values only along edges | one: where it exceeds half of its maximum |
| colours | few colours, in areas | each; numbered by the DAVIS palette if all are in it |
| cut-out | many colours | one: where the picture is not black |
| JPEG | compressed with losses | one, cut at half; several levels in areas are refused |

A label map whose colours come from a palette (indexed PNG) is read by its indices.
"""

from __future__ import annotations

import numpy as np

VOID = 255
"""Value of the pixels that a benchmark does not count, in label maps with small labels."""

_MAX_LABELS = 64
_MAX_LABEL_BESIDE_VOID = 64
_MIN_SOFT_MAXIMUM = 32
_MIN_SOLID_SHARE = 0.5
_FLAT_DISTANCE, _FLAT_DIFFERENCE = 8, 6  # across a block of a JPEG
_MIN_FLAT_SHARE = 0.3
_MIDDLE = 0.15, 0.85


def label_map(picture: np.ndarray, *, lossy: bool = False) -> np.ndarray:
    """Return the labels of a picture of masks: (H, W) int32, 0 beside all objects.

    The picture is (H, W) of any number type or bool, or (H, W, 3) RGB. It is `lossy` if it was
    compressed with losses (JPEG), so that small differences mean nothing. Raises ValueError if it
    has another shape, nothing in it stands out, or a lossy one has areas of several levels, which
    may have been labels.
    """
    picture = np.asarray(picture)
    if picture.ndim == 3 and picture.shape[2] == 1:
        picture = picture[..., 0]
    if picture.ndim == 3 and picture.shape[2] == 3:
        spread = picture.max(axis=2).astype(np.int64) - picture.min(axis=2)
        if spread.max(initial=0) > (_MIN_SOFT_MAXIMUM if lossy else 0):
            return _coloured(picture, lossy)
        picture = picture[..., 0]
    if picture.ndim != 2:
        raise ValueError(f"mask has shape {picture.shape}; expected (H, W) or (H, W, 3)")
    if picture.dtype == bool:
        return picture.astype(np.int32)
    if not np.isfinite(picture).all() or picture.min(initial=0) < 0:
        raise ValueError("mask has values that are negative or not finite; expected 0 and above")
    if lossy and _has_middle_level(picture):
        raise ValueError(
            "mask has areas of several levels, but its format is lossy, so that labels are not "
            "kept; give a PNG"
        )
    values = _values(picture)
    if lossy or (len(values) > 1 and not _is_label_map(picture, values)):
        return _cut_at_half(picture)
    if not np.issubdtype(picture.dtype, np.integer):
        return (picture > 0).astype(np.int32)
    labels = picture.astype(np.int32)
    return _without_void(labels, values)


def object_numbers(labels: np.ndarray) -> list[int]:
    """Return the labels of the objects in a label map (H, W), ascending."""
    return [int(value) for value in _values(labels)]


def one_object(labels: np.ndarray, number: int | None = None) -> np.ndarray:
    """Return the mask (H, W) bool of one object of a label map, (H, W) integers.

    The number may be left out where there is only one. Raises ValueError if there is no object,
    not that one, or more than one to choose from.
    """
    present = object_numbers(labels)
    listed = ", ".join(map(str, present))
    if not present:
        raise ValueError("mask is empty; set the target's pixels to 255 and the others to 0")
    if number is None and len(present) > 1:
        raise ValueError(f"mask has {len(present)} objects, {listed}; choose one of them")
    if number is not None and number not in present:
        raise ValueError(f"mask has no object {number}; it has {listed}")
    mask: np.ndarray = labels == (present[0] if number is None else number)
    return mask


def placed_mask(part: np.ndarray, offset: tuple[int, int], height: int, width: int) -> np.ndarray:
    """Return a mask on an image of a size, (height, width) bool; what is beside it is cut off.

    `part` is (h, w) bool, the mask within a rectangle, of which `offset` is the left upper corner:
    x, y in pixels of the image.
    """
    image = np.zeros((height, width), bool)
    left, top = offset
    rows = slice(max(top, 0), max(min(top + part.shape[0], height), 0))
    columns = slice(max(left, 0), max(min(left + part.shape[1], width), 0))
    if rows.start < rows.stop and columns.start < columns.stop:
        image[rows, columns] = part[
            rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]
    return image


def davis_palette() -> np.ndarray:
    """Return the colours of labels 0 to 255 in DAVIS and Pascal VOC, (256, 3) uint8 RGB.

    The bits of a label are dealt out to the three channels in turn, from the highest bit down.
    """
    labels = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        channel = bit % 3
        palette[:, channel] |= (((labels >> bit) & 1) << (7 - bit // 3)).astype(np.uint8)
    return palette


def _values(picture: np.ndarray) -> np.ndarray:
    """Return the values above 0, ascending; small integers are counted, which is fast."""
    if np.issubdtype(picture.dtype, np.integer) and picture.max(initial=0) < 2**16:
        return np.flatnonzero(np.bincount(picture.ravel(), minlength=1)[1:]) + 1
    values: np.ndarray = np.unique(picture)
    return values[values > 0]


def _is_label_map(picture: np.ndarray, values: np.ndarray) -> bool:
    """Whether values form areas. Between 0 and the highest one, soft edges have many values.

    What decides are the pixels with neither 0 nor the highest value: those of areas equal a
    neighbour beside them and one above or below, those of edges seldom do both.
    """
    if len(values) > _MAX_LABELS or not np.issubdtype(picture.dtype, np.integer):
        return False
    between = (picture > 0) & (picture < values[-1])
    return _solid_share(picture, between) >= _MIN_SOLID_SHARE


def _solid_share(picture: np.ndarray, pixels: np.ndarray) -> float:
    """Return the share of some pixels that equal a neighbour beside and one above or below."""
    padded = np.pad(picture, 1, constant_values=0)
    middle = padded[1:-1, 1:-1]
    beside = (middle == padded[1:-1, :-2]) | (middle == padded[1:-1, 2:])
    upright = (middle == padded[:-2, 1:-1]) | (middle == padded[2:, 1:-1])
    count = int(np.count_nonzero(pixels))
    return float(np.count_nonzero(beside & upright & pixels)) / count if count else 1.0


def _has_middle_level(picture: np.ndarray) -> bool:
    """Whether a picture has areas, not only soft edges, well between 0 and its maximum.

    In an area, pixels hardly differ from those a few pixels to the right and below.
    """
    values = picture.astype(np.int64)
    highest = int(values.max(initial=0))
    step = _FLAT_DISTANCE
    corner = values[:-step, :-step]
    flat = abs(corner - values[:-step, step:]) <= _FLAT_DIFFERENCE
    flat &= abs(corner - values[step:, :-step]) <= _FLAT_DIFFERENCE
    between = (corner > _MIDDLE[0] * highest) & (corner < _MIDDLE[1] * highest)
    count = np.count_nonzero(between)
    return count > 0 and np.count_nonzero(between & flat) / count > _MIN_FLAT_SHARE


def _cut_at_half(picture: np.ndarray) -> np.ndarray:
    """Return 1 where a soft mask exceeds half of its maximum; nothing for a dark noisy one."""
    highest = float(picture.max(initial=0))
    if np.issubdtype(picture.dtype, np.integer) and highest < _MIN_SOFT_MAXIMUM:
        return np.zeros(picture.shape, np.int32)
    return (picture > highest / 2).astype(np.int32)


def _without_void(labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Set void pixels to 0: those of 255 beside small labels."""
    beside = values[values != VOID]
    if len(beside) and len(beside) < len(values) and beside.max() <= _MAX_LABEL_BESIDE_VOID:
        labels[labels == VOID] = 0
    return labels


def _coloured(picture: np.ndarray, lossy: bool) -> np.ndarray:
    """Return labels of a picture (H, W, 3) in colours."""
    if picture.dtype != np.uint8:
        raise ValueError(f"mask in colours has dtype {picture.dtype}; expected uint8")
    red, green, blue = (picture[..., i].astype(np.int32) for i in range(3))
    codes = (red << 16) | (green << 8) | blue
    colours = np.unique(codes)
    if lossy or len(colours) > _MAX_LABELS or _solid_share(codes, codes > 0) < _MIN_SOLID_SHARE:
        return (picture.max(axis=2) > (_MIN_SOFT_MAXIMUM if lossy else 0)).astype(np.int32)
    palette = davis_palette().astype(np.int32)
    known = (palette[:, 0] << 16) | (palette[:, 1] << 8) | palette[:, 2]
    if not np.isin(colours, known).all():
        return codes
    order = np.argsort(known)
    places: np.ndarray = order[np.searchsorted(known[order], codes)].astype(np.int32)
    return _without_void(places, np.unique(places[places > 0]))
