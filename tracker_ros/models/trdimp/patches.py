# SPDX-License-Identifier: Apache-2.0
"""Square patches of an image, the way between image and patch, and views of the first image.

Papers: Danelljan et al., "ATOM", CVPR 2019; Bhat et al., "DiMP", ICCV 2019
(https://arxiv.org/abs/1904.07220), section 3.4, for the views that the filter learns from; Wang et
al., "Transformer Meets Tracker", CVPR 2021 (https://arxiv.org/abs/2103.11681). Official code:
https://github.com/594422814/TransformerTrack (MIT), `pytracking/features/preprocessing.py` and
`augmentation.py` for the behaviour; written anew.

Positions are pixel indices `(y, x)`: pixel k has its centre at k, and a box `(x, y, w, h)` has its
centre at corner + (size - 1) / 2. Geometry runs in float32, as officially, so that whole pixels
are cut off at the same places.

What is kept although it looks wrong: the centre is truncated to whole pixels; a large window shows
every n-th pixel without averaging; the first of those is left out of the returned coordinates.
What differs on purpose: rotated views are sampled exactly, where older releases of OpenCV round
positions to 1/32 pixel; blurs and rotations compute only what the view shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

import numpy as np

from tracker_ros.arrays import Array, concatenate, like
from tracker_ros.crops import in_order
from tracker_ros.geometry import Box
from tracker_ros.models.layers.bilinear import between, interpolate, resized
from tracker_ros.models.trdimp.config import TrackingParameters


class Border(Enum):
    """What happens to a window that reaches beyond the image, where edge pixels are repeated."""

    REPLICATE = "replicate"
    """It stays where it is."""
    INSIDE = "inside"
    """It shrinks to the image and moves inside."""
    INSIDE_MAJOR = "inside_major"
    """It shrinks until one side fits, and moves as far inside as it can."""


@dataclass(frozen=True)
class Span:
    """The pixels of one axis that a window shows: `extent` of them, `step` apart.

    The first lies `start` steps, which may be negative, from pixel `offset`, which is below
    `step`.
    """

    start: int
    extent: int
    step: int
    offset: int

    def within(self, length: int) -> tuple[slice, tuple[int, int]]:
        """Return the pixels that an image of `length` pixels has, at least one.

        The second result tells how often the first and the last of them are repeated.
        """
        offset = min(self.offset, length - 1)
        count = len(range(offset, length, self.step))
        first = min(max(self.start, 0), count - 1)
        end = max(min(self.start + self.extent, count), first + 1)
        before = min(max(-self.start, 0), self.extent - 1)
        pixels = slice(first * self.step + offset, (end - 1) * self.step + offset + 1, self.step)
        return pixels, (before, self.extent - before - (end - first))


@dataclass(frozen=True)
class Window:
    """The rows and columns of the image that a patch shows."""

    rows: Span
    columns: Span

    @property
    def coordinates(self) -> tuple[int, int, int, int]:
        """Top, left, bottom, right in pixels of the image, the last two exclusive."""
        rows, columns = self.rows, self.columns
        return (
            rows.step * rows.start,
            columns.step * columns.start,
            rows.step * (rows.start + rows.extent),
            columns.step * (columns.start + columns.extent),
        )


def choose_window(
    centre: np.ndarray,
    size: np.ndarray,
    output_side: int,
    image_shape: Sequence[int],
    border: Border,
    max_shrink: float = math.inf,
) -> Window:
    """Return the window that a patch is made of.

    Args:
        centre: (2,) float32 `(y, x)`, pixels.
        size: (2,) float32 `(height, width)`, pixels.
        output_side: Side of the patch.
        image_shape: Height and width of the image; further numbers are ignored.
        border: What happens at the image's border.
        max_shrink: Maximum factor by which the window is shrunk to fit.
    """
    size = np.asarray(size, dtype=np.float32)
    if border is not Border.REPLICATE:
        ratio = size / np.asarray(image_shape[:2], dtype=np.float32)
        shrink = ratio.max() if border is Border.INSIDE else ratio.min()
        shrink = np.clip(shrink, np.float32(1.0), np.float32(max_shrink))
        size = np.trunc(size / shrink)
    step = max(int(float((size / np.float32(output_side)).min()) - 0.1), 1)
    extents = np.maximum(np.rint(size / np.float32(step)), 2).astype(np.int64)
    rows, columns = (
        _span(int(centre[axis]), int(extents[axis]), step, image_shape[axis], border)
        for axis in (0, 1)
    )
    return Window(rows, columns)


def _span(centre: int, extent: int, step: int, length: int, border: Border) -> Span:
    middle, offset = divmod(centre, step)
    start = middle - (extent - 1) // 2
    if border is not Border.REPLICATE:
        outside = extent - len(range(offset, length, step))
        if outside <= 0:
            start = min(max(start, 0), -outside)
        elif outside == 1:
            # One step cannot be split: it stays on the far side of where the window was.
            start = 0 if start < 0 else -1
        else:
            start = -(outside // 2)
    return Span(start, extent, step, offset)


def cut(image: np.ndarray, window: Window, side: int) -> np.ndarray:
    """Return the patch that `window` shows of an (H, W, 3) uint8 image, resized.

    (1, 3, side, side) float32 in 0..255, bilinear without antialiasing, and exact where OpenCV
    rounds positions.
    """
    rows, above_below = window.rows.within(image.shape[0])
    columns, left_right = window.columns.within(image.shape[1])
    shown = np.pad(in_order(image[rows, columns]), (above_below, left_right, (0, 0)), mode="edge")
    pixels = shown.transpose(2, 0, 1).astype(np.float32, order="C")
    return interpolate(pixels, *(resized(length, side) for length in pixels.shape[1:]))[None]


@dataclass(frozen=True)
class Placement:
    """Where a patch of `side` pixels lies in the image.

    Attributes:
        position: (2,) float32 `(y, x)` of its middle, pixels of the image.
        scale: Pixels of the image per pixel of the patch.
        side: Side of the patch, pixels.
    """

    position: np.ndarray
    scale: np.float32
    side: int

    @classmethod
    def of(cls, window: Window, side: int) -> Placement:
        """Return the placement of a patch of `side` pixels that shows `window`."""
        corners = np.asarray(window.coordinates, dtype=np.float32)
        ratio = (corners[2:] - corners[:2]) / np.float32(side)
        position = np.float32(0.5) * (corners[:2] + corners[2:] - np.float32(1.0))
        return cls(position, np.sqrt(ratio.prod()), side)

    def box_in_patch(self, position: np.ndarray, size: np.ndarray) -> np.ndarray:
        """(2,) position and (2,) size `(y, x)` in the image -> (4,) float32 xywh in the patch."""
        extent = size / self.scale
        centre = (position - self.position) / self.scale + np.float32((self.side - 1) / 2)
        corner = centre - (extent - np.float32(1.0)) / np.float32(2.0)
        return np.concatenate([corner[::-1], extent[::-1]])

    def target_of(self, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(4,) float32 xywh in the patch -> (2,) position and (2,) size `(y, x)` in the image.

        The middle is taken at corner + size / 2, half a pixel of the patch off `box_in_patch`, as
        officially.
        """
        centre = (box[:2] + box[2:] / np.float32(2.0))[::-1]
        position = (centre - np.float32((self.side - 1) / 2)) * self.scale + self.position
        return position, box[2:][::-1] * self.scale

    def region(self, cells: int, stride: int) -> Box:
        """Return the `(x, y, w, h)` in the image that a map around the patch's middle covers.

        The map has `cells` x `cells` cells of `stride` pixels of the patch.
        """
        side = cells * stride * float(self.scale)
        # Pixel k, here an index, is the stretch from k to k + 1 in a box.
        y, x = (float(v) + 0.5 - side / 2 for v in self.position)
        return (x, y, side, side)


def box_to_target(box: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Box `(x, y, w, h)` in the image -> (2,) float32 position and (2,) size `(y, x)`."""
    x, y, w, h = (np.float32(v) for v in box)
    size = np.array([h, w], dtype=np.float32)
    corner = np.array([y, x], dtype=np.float32)
    return corner + (size - np.float32(1.0)) / np.float32(2.0), size


def target_to_box(position: np.ndarray, size: np.ndarray) -> Box:
    """(2,) position and (2,) size `(y, x)` -> box `(x, y, w, h)` in the image."""
    y, x = position - (size - np.float32(1.0)) / np.float32(2.0)
    return (float(x), float(y), float(size[1]), float(size[0]))


Shift = tuple[int, int]


class Draws(Protocol):
    """A source of random numbers, all float32."""

    def shift(self) -> np.ndarray:
        """Return (2,) in [0, 1), `(y, x)`, for one augmented view."""

    def dropout(self, copies: int, channels: int, probability: float) -> np.ndarray:
        """Return (copies, channels): 0 with `probability`, else 1 / (1 - probability)."""

    def boxes(self, count: int) -> np.ndarray:
        """Return (count, 4) in [0, 1), `(x, y, w, h)`, for the boxes refined in one frame."""


class SeededDraws:
    """Draws of one generator; the same seed gives the same numbers."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def shift(self) -> np.ndarray:
        """See `Draws`."""
        return self._generator.random(2, dtype=np.float32)

    def dropout(self, copies: int, channels: int, probability: float) -> np.ndarray:
        """See `Draws`."""
        kept = self._generator.random((copies, channels)) >= probability
        return kept.astype(np.float32) / np.float32(1.0 - probability)

    def boxes(self, count: int) -> np.ndarray:
        """See `Draws`."""
        return self._generator.random((count, 4), dtype=np.float32)


class Views(NamedTuple):
    """Views of the first image.

    Attributes:
        patches: (N, 3, S, S) float32 in 0..255; the first is the plain crop.
        shifts: (N, 2) float32 `(x, y)` that the target moved by, pixels of the patch.
    """

    patches: np.ndarray
    shifts: np.ndarray


def augment(wide: np.ndarray, parameters: TrackingParameters, draws: Draws) -> Views:
    """Make the views of the first image from a wide patch, (1, 3, E, E) float32 in 0..255.

    One shift is drawn for each flip, blur and rotation, in this order.
    """
    side, options = parameters.image_sample_size, parameters.views

    def drawn() -> Shift:
        reach = np.float32(side * parameters.random_shift_factor)
        y, x = (draws.shift() - np.float32(0.5)) * reach
        return int(y), int(x)

    shifts: list[Shift] = [(0, 0)]
    shifts += [(int(y * side / 2), int(x * side / 2)) for y, x in options.relative_shift]
    patches = [_crop(wide, shift, side) for shift in shifts]
    if options.flip:
        shifts.append(drawn())
        patches.append(_crop(wide[..., ::-1], shifts[-1], side))
    for deviation in options.blur:
        shifts.append(drawn())
        patches.append(_blurred(wide, deviation, shifts[-1], side))
    for degrees in options.rotate:
        shifts.append(drawn())
        patches.append(_rotated(wide, degrees, shifts[-1], side))
    return Views(np.concatenate(patches), np.asarray(shifts, dtype=np.float32)[:, ::-1].copy())


def drop_channels(
    classification: Array, parameters: TrackingParameters, draws: Draws
) -> tuple[Array, int]:
    """Add copies of the first of (N, C, h, w) features with channels left out.

    Returns (N + copies, C, h, w), and the number of copies.
    """
    options = parameters.views
    copies = options.dropout_copies
    if copies == 0:
        return classification, 0
    factors = draws.dropout(copies, classification.shape[1], options.dropout)
    mask = like(factors, classification)[:, :, None, None]
    return concatenate([classification, classification[:1] * mask]), copies


def _corner(wide: np.ndarray, shift: Shift, side: int) -> tuple[int, int]:
    """Return the first row and column that a crop of `wide` shows whose content moves by `shift`.

    Raises ValueError if the crop would leave `wide`.
    """
    spare = wide.shape[-1] - side
    top, left = (spare + 1) // 2 - shift[0], (spare + 1) // 2 - shift[1]
    if not (0 <= top <= spare and 0 <= left <= spare):
        raise ValueError(
            f"a shift of {shift} px leaves the patch of {wide.shape[-1]} px; expected at most "
            f"{spare // 2} px (widen augmentation_expansion_factor or shift less)"
        )
    return top, left


def _crop(wide: np.ndarray, shift: Shift, side: int) -> np.ndarray:
    top, left = _corner(wide, shift, side)
    return wide[:, :, top : top + side, left : left + side]


def _blurred(
    wide: np.ndarray, deviation: tuple[float, float], shift: Shift, side: int
) -> np.ndarray:
    """Blur what the crop shows by a Gaussian, first along y; it is 0 outside `wide`."""
    top, left = _corner(wide, shift, side)
    (reach_y, kernel_y), (reach_x, kernel_x) = (_gaussian(d) for d in deviation)
    padded = np.pad(wide, ((0, 0), (0, 0), (reach_y, reach_y), (reach_x, reach_x)))
    part = padded[:, :, top : top + side + 2 * reach_y, left : left + side + 2 * reach_x]
    part = sum(k * part[:, :, i : i + side] for i, k in enumerate(kernel_y))
    return sum(k * part[..., i : i + side] for i, k in enumerate(kernel_x))


def _gaussian(deviation: float) -> tuple[int, np.ndarray]:
    """Return the half width of the kernel, and the kernel, (2 * half + 1,) of sum 1."""
    reach = math.ceil(2 * deviation)
    steps = np.arange(-reach, reach + 1, dtype=np.float32)
    kernel = np.exp(-(steps**2) / np.float32(2 * deviation**2))
    return reach, kernel / kernel.sum()


def _rotated(wide: np.ndarray, degrees: float, shift: Shift, side: int) -> np.ndarray:
    """Rotate about the middle of `wide`, sampled bilinearly; edges are repeated."""
    top, left = _corner(wide, shift, side)
    middle = (wide.shape[-1] - 1) / 2
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    place = np.arange(side, dtype=np.float64)
    dy, dx = (place + top - middle)[:, None], (place + left - middle)[None]
    return _bilinear(wide, middle + sin * dx + cos * dy, middle + cos * dx - sin * dy)


def _bilinear(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(1, C, H, W) at float64 positions (h, w) -> (1, C, h, w); outside it edges are repeated."""
    height, width = image.shape[2:]
    y, x = y.clip(0, height - 1), x.clip(0, width - 1)
    rows, columns = y.astype(np.int64), x.astype(np.int64)
    fy, fx = (y - rows).astype(np.float32), (x - columns).astype(np.float32)
    below, right = np.minimum(rows + 1, height - 1), np.minimum(columns + 1, width - 1)
    pixels = image[0].reshape(len(image[0]), -1)

    def at(row: np.ndarray, column: np.ndarray) -> np.ndarray:
        return pixels.take(row * width + column, 1)

    above = between(at(rows, columns), at(rows, right), fx)
    under = between(at(below, columns), at(below, right), fx)
    found: np.ndarray = between(above, under, fy)[None]
    return found
