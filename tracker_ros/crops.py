# SPDX-License-Identifier: Apache-2.0
"""Cut square crops around a box, normalise their pixels, and map boxes into a crop and back.

The template and the search region are square crops whose side is a multiple of the target's mean
extent, black outside the image, resized to the network's input. Source: OSTrack (MIT),
`lib/train/data/processing_utils.py` and `lib/test/tracker/ostrack.py`; the same in GRM.

What differs on purpose: a crop that misses the image is black (officially it may show pixels of
the far side). What is kept although it looks wrong: a crop that reaches the right or bottom border
loses the image's last column or row to black, since networks were trained that way.

Every image that a network sees in RGB is normalised here, by ImageNet's mean and deviation:
`normalize` for crops in NumPy, `normalize_pixels` for float ones, `crops_to` for crops that go to
a network's device, and `normalize_tensor` for floating-point tensors. Torch is imported by the
functions that return tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from tracker_ros.arrays import Array
from tracker_ros.geometry import Box

if TYPE_CHECKING:
    import torch
    from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class CropRegion:
    """A square of image pixels; its first column and row may be negative."""

    left: int
    top: int
    side: int

    def visible(self, height: int, width: int) -> tuple[slice, slice]:
        """Return the rows and columns of the image that the crop shows; empty if it misses it."""
        rows = (max(self.top, 0), min(self.top + self.side, height - 1))
        columns = (max(self.left, 0), min(self.left + self.side, width - 1))
        return slice(rows[0], max(rows)), slice(columns[0], max(columns))


def crop_region(box: Sequence[float], factor: float) -> CropRegion:
    """Return the square around `box` whose side is `factor` times the square root of its area.

    The box is `(x, y, w, h)` in pixels. Raises ValueError if it has no area.
    """
    x, y, w, h = box
    if not w * h > 0.0:
        raise ValueError(f"box {tuple(box)} has no area; expected a positive width and height")
    side = math.ceil(math.sqrt(w * h) * factor)
    return CropRegion(round(x + 0.5 * w - 0.5 * side), round(y + 0.5 * h - 0.5 * side), side)


def in_order(image: np.ndarray) -> np.ndarray:
    """Return an (H, W, 3) uint8 image with its channels forwards in memory.

    In a view of a bgr8 message they run backwards. To put them into order NumPy takes thirty times
    as long as OpenCV, which is told that it reads BGR. Other images are returned as they are.
    """
    if image.strides[2] >= 0 or not image.size:
        return image
    import cv2

    return np.asarray(cv2.cvtColor(image[:, :, ::-1], cv2.COLOR_BGR2RGB))


def crop_square(
    image: np.ndarray, box: Sequence[float], factor: float, size: int
) -> tuple[np.ndarray, float]:
    """Crop around a box `(x, y, w, h)` in pixels of an (H, W, 3) uint8 image.

    The side of the crop is `factor` times the square root of the box area. Returns the crop
    resized to (size, size, 3) uint8, bilinear without antialiasing, and output pixels per image
    pixel. Raises ValueError if the box has no area.
    """
    import cv2

    region = crop_region(box, factor)
    rows, columns = region.visible(image.shape[0], image.shape[1])
    shown = in_order(image[rows, columns])
    if shown.shape[:2] != (region.side, region.side):
        padded = np.zeros((region.side, region.side, image.shape[2]), dtype=image.dtype)
        top, left = rows.start - region.top, columns.start - region.left
        if shown.size:
            padded[top : top + shown.shape[0], left : left + shown.shape[1]] = shown
        shown = padded
    resized = cv2.resize(shown, (size, size), interpolation=cv2.INTER_LINEAR)
    return resized, size / region.side


@lru_cache(maxsize=1)
def _normalized_levels() -> np.ndarray:
    """Return (1, 256, 3) float32: what each level of each channel becomes."""
    scaled = np.arange(256, dtype=np.float32).reshape(1, 256, 1) / np.float32(255.0)
    mean = np.asarray(IMAGENET_MEAN, dtype=np.float32)
    return (scaled - mean) / np.asarray(IMAGENET_STD, dtype=np.float32)


def normalize(*crops: np.ndarray) -> np.ndarray:
    """Normalise crops, (S, S, 3) RGB uint8 each. Returns (B, 3, S, S) float32."""
    import cv2

    normalized = np.empty((len(crops), *crops[0].shape), dtype=np.float32)
    for crop, place in zip(crops, normalized, strict=True):
        # There are 256 levels: looking them up takes a fraction of computing every pixel.
        cv2.LUT(crop, _normalized_levels(), dst=place)
    return normalized.transpose(0, 3, 1, 2)


def normalize_pixels(images: np.ndarray) -> np.ndarray:
    """Normalise RGB images (N, 3, H, W) float32 in 0..255. Returns a new array of that shape."""
    mean, deviation = np.array([IMAGENET_MEAN, IMAGENET_STD], np.float32)[:, :, None, None]
    normalized: np.ndarray = images / np.float32(255.0)
    normalized -= mean
    normalized /= deviation
    return normalized


def normalize_tensor(images: Tensor) -> Tensor:
    """Normalise RGB images (..., 3, H, W) in [0, 1]. Returns a new tensor of the same shape."""
    mean, deviation = _imagenet(images.device)
    return images.sub(mean.to(images.dtype)).div_(deviation.to(images.dtype))


@lru_cache(maxsize=8)
def _imagenet(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and deviation, (3, 1, 1) float32; copying them to a GPU each time would wait."""
    import torch

    mean, deviation = torch.tensor([IMAGENET_MEAN, IMAGENET_STD], dtype=torch.float32)
    return mean.view(3, 1, 1).to(device), deviation.view(3, 1, 1).to(device)


def crops_to(device: torch.device | None, crops: Sequence[np.ndarray]) -> Array:
    """Normalise crops, (S, S, 3) RGB uint8 each, on a device. Returns (B, 3, S, S) float32.

    A GPU gets them as bytes and normalises them there. Without a device the result is a NumPy
    array.
    """
    if device is None:
        return np.ascontiguousarray(normalize(*crops))
    import torch

    if device.type == "cpu":
        return torch.from_numpy(normalize(*crops))
    # Torch gives the memory to nobody else before it has been read.
    staged = torch.empty((len(crops), *crops[0].shape), dtype=torch.uint8, pin_memory=True)
    np.stack(crops, out=staged.numpy())
    return normalize_bytes(staged.to(device, non_blocking=True))


def normalize_bytes(crops: Tensor) -> Tensor:
    """Normalise (B, S, S, 3) uint8 where it is. Returns (B, 3, S, S) float32, as `normalize`."""
    scale, shift = _scale_and_shift(crops.device)
    return (crops * scale + shift).permute(0, 3, 1, 2)


@lru_cache(maxsize=8)
def _scale_and_shift(device: torch.device) -> tuple[Tensor, Tensor]:
    import torch

    mean, deviation = torch.tensor([IMAGENET_MEAN, IMAGENET_STD], dtype=torch.float64)
    return (1 / (255 * deviation)).float().to(device), (-mean / deviation).float().to(device)


def hann_window(grid: int) -> np.ndarray:
    """Return a (grid, grid) float32 window: the product of two raised cosines, nowhere 0."""
    steps = np.arange(1, grid + 1) * (2.0 * math.pi / (grid + 1))
    profile = 0.5 * (1.0 - np.cos(steps))
    return np.outer(profile, profile).astype(np.float32)


def map_box_back(
    pred_cxcywh: Sequence[float], previous: Sequence[float], resize_factor: float, size: int
) -> Box:
    """Map a box found in the search crop back to the image: `(x, y, w, h)` in its pixels.

    The crop was cut at whole pixels, but the box is placed relative to the unrounded centre of the
    `previous` xywh box, as officially. The found one is given in image pixels, measured from the
    crop's corner; the factor is crop pixels per image pixel, the size the side of the crop.
    """
    cx, cy, w, h = pred_cxcywh
    half = 0.5 * size / resize_factor
    cx += previous[0] + 0.5 * previous[2] - half
    cy += previous[1] + 0.5 * previous[3] - half
    return (cx - 0.5 * w, cy - 0.5 * h, w, h)


def box_in_crop(
    box: Sequence[float], cropped_around: Sequence[float], resize_factor: float, size: int
) -> Box:
    """Map a box into a crop made around another box: `(x, y, w, h)` as fractions of `size`.

    Both boxes are `(x, y, w, h)` in pixels of the image. The crop was resized by the factor (crop
    pixels per image pixel) to the side `size`; its centre is taken at (size - 1) / 2.
    """
    centre = (size - 1) / 2.0
    dx = box[0] + 0.5 * box[2] - cropped_around[0] - 0.5 * cropped_around[2]
    dy = box[1] + 0.5 * box[3] - cropped_around[1] - 0.5 * cropped_around[3]
    w, h = box[2] * resize_factor, box[3] * resize_factor
    x = centre + dx * resize_factor - 0.5 * w
    y = centre + dy * resize_factor - 0.5 * h
    return (x / size, y / size, w / size, h / size)
