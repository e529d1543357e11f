# SPDX-License-Identifier: Apache-2.0
"""Images in CIE Lab, the colours that MAST is trained to reconstruct.

Paper: Lai, Lu, Xie, CVPR 2020, section 3.1; see `network.py`. Lightness and colour are nearly
independent in Lab, so a network that is shown one of the colour channels cannot guess the other.

Labels between pixels and the cells of a feature map.

Paper: Lai, Lu, Xie, CVPR 2020, section 3.3; see `network.py`. A cell takes the label of one pixel,
the first of its four by four: averaging would blur class borders. On the way back the soft labels
of cells are interpolated. Officially a cell is then centred on its four pixels, one and a half
pixels from where it was read; here it is written back to the pixel that it was read from.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tracker_ros.models.mast.config import STRIDE

LAB_MEAN = (50.0, 0.0, 0.0)
LAB_STD = (50.0, 127.0, 127.0)
# sRGB to CIE XYZ over its white point D65, and the constants of CIE Lab, as OpenCV has them.
_TO_XYZ = (
    (0.412453 / 0.950456, 0.357580 / 0.950456, 0.180423 / 0.950456),
    (0.212671, 0.715160, 0.072169),
    (0.019334 / 1.088754, 0.119193 / 1.088754, 0.950227 / 1.088754),
)
_DARK = 0.008856


def rgb_to_lab(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (H, W, 3) float32: L in 0..100, a and b within -127..127."""
    import cv2

    return cv2.cvtColor(image.astype(np.float32) / np.float32(255.0), cv2.COLOR_RGB2Lab)


def network_input(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (1, 3, H, W) float32 Lab, each channel within about -1..1."""
    mean, std = np.array(LAB_MEAN, np.float32), np.array(LAB_STD, np.float32)
    normalised = (rgb_to_lab(image) - mean) / std
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))[None]


def normalised_lab(images: Tensor) -> Tensor:
    """(..., 3, H, W) RGB in [0, 1] -> the same shape, normalised Lab; on any device.

    Differs from `network_input` by up to 0.004: OpenCV interpolates in a table.
    """
    linear = torch.where(
        images > 0.04045, ((images.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4, images / 12.92
    )
    xyz = torch.einsum("...chw,kc->...khw", linear, images.new_tensor(_TO_XYZ))
    root = torch.where(xyz > _DARK, xyz.clamp(min=_DARK) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = root.unbind(-3)
    lab = torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-3)
    mean, std = (images.new_tensor(numbers)[:, None, None] for numbers in (LAB_MEAN, LAB_STD))
    return (lab - mean) / std


def cell_labels(labels: Tensor) -> Tensor:
    """(..., H, W) of pixels -> (..., ceil(H / 4), ceil(W / 4)) of cells."""
    return labels[..., ::STRIDE, ::STRIDE]


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Labels (H, W) from 0 to `classes` - 1 as (classes, H, W) float32."""
    every = torch.arange(classes, device=labels.device)[:, None, None]
    return (labels[None] == every).float()


def strongest(soft: Tensor) -> Tensor:
    """Soft labels (V, H, W) -> (H, W) uint8, the first of the highest.

    The same as `argmax`, which on a CPU takes ten times as long along the first axis.
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
    """Interpolate soft labels of cells at the pixels of an image.

    Args:
        soft: (1, V, h, w) float, cells of the working image.
        working: Height and width of the working image, in pixels.
        size: Height and width of the image to fill, which the working image was resized from.
        aligned: Cell k belongs to pixel 4 k of the working image; else it covers an h-th of it.

    Returns:
        (1, V, *size) float.
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
