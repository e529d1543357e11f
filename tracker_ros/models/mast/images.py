# SPDX-License-Identifier: Apache-2.0
"""Images as MAST's network takes them, in CIE Lab."""

from __future__ import annotations

import numpy as np

LAB_MEAN = (50.0, 0.0, 0.0)
LAB_STD = (50.0, 127.0, 127.0)


def rgb_to_lab(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (H, W, 3) float32: L in 0..100, a and b within -127..127."""
    import cv2

    return cv2.cvtColor(image.astype(np.float32) / np.float32(255.0), cv2.COLOR_RGB2Lab)


def network_input(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (1, 3, H, W) float32 Lab, each channel within about -1..1."""
    mean, std = np.array(LAB_MEAN, np.float32), np.array(LAB_STD, np.float32)
    normalised = (rgb_to_lab(image) - mean) / std
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))[None]
