# SPDX-License-Identifier: Apache-2.0
"""Images in CIE Lab, the colours that MAST is trained to reconstruct.

Paper: Lai, Lu, Xie, CVPR 2020, section 3.1; see `network.py`. Lightness and colour are nearly
independent in Lab, so a network that is shown one of the colour channels cannot guess the other.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

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
