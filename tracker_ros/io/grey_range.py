# SPDX-License-Identifier: Apache-2.0
"""Sixteen bits to eight: which counts of a sensor become black and which white.

A thermal camera fills a narrow band of its 16 bits, 7600 to 8110 of 65535 for example. Scaled by
the full range, its picture has two or three shades of grey.
"""

from __future__ import annotations

import re

import numpy as np

from tracker_ros.io.image_encodings import scale_full_range

_DARKEST, _BRIGHTEST = 0.001, 0.999  # shares of the pixels
_SAMPLES = 20_000
_ADAPTATION = 0.1
_MIN_WIDTH = 32.0  # counts; less is the sensor's noise


def parse_grey_range(text: str) -> tuple[float, float] | None:
    """Return the counts that ``full`` or ``[low, high]`` makes black and white; None for ``auto``.

    Raises ValueError if the text is none of these.
    """
    word = text.strip().lower()
    if word in ("auto", "full"):
        return None if word == "auto" else (0.0, 65535.0)
    numbers = re.fullmatch(r"[\[(]?\s*(\d+(?:\.\d*)?)[\s,]+(\d+(?:\.\d*)?)\s*[\])]?", word)
    low, high = (float(numbers[1]), float(numbers[2])) if numbers else (0.0, 0.0)
    if not low < high <= 65535:
        raise ValueError(
            f"{text!r} is no range of grey: give auto, full or [low, high] with "
            "0 <= low < high <= 65535"
        )
    return low, high


class GreyRange:
    """Scales the counts of one camera to 8 bits, by a setting as `parse_grey_range` reads it.

    With ``auto`` the range is that of the picture without its darkest and brightest thousandth. It
    follows the pictures slowly, so that brightness does not flicker; where most of a picture is
    outside (the camera has switched its gain), it follows at once.
    """

    def __init__(self, setting: str = "auto") -> None:
        self._fixed = parse_grey_range(setting)
        self._range: tuple[float, float] | None = None

    def to_eight_bits(self, counts: np.ndarray) -> np.ndarray:
        """Return (H, W) uint16 as uint8, rounded."""
        import cv2

        low, high = self._fixed or self._follow(counts)
        if (low, high) == (0.0, 65535.0):
            return scale_full_range(counts)
        above = cv2.subtract(counts, np.full_like(counts, round(low)))  # not below 0
        scaled: np.ndarray = np.asarray(cv2.convertScaleAbs(above, alpha=255.0 / (high - low)))
        return scaled.reshape(counts.shape)

    def _follow(self, counts: np.ndarray) -> tuple[float, float]:
        """Return the range for this picture, between that of the last ones and its own."""
        measured = _measure(counts)
        if self._range is None or _overlap(measured, self._range) < 0.5:
            self._range = measured
        low, high = (
            old + _ADAPTATION * (new - old) for old, new in zip(self._range, measured, strict=True)
        )
        self._range = low, high
        return low, high


def _measure(counts: np.ndarray) -> tuple[float, float]:
    """Return the range of most pixels of (H, W) uint16, at least `_MIN_WIDTH` wide."""
    stride = max(1, int((counts.size / _SAMPLES) ** 0.5))
    samples = np.sort(counts[::stride, ::stride], axis=None)
    low, high = (float(samples[round(s * (samples.size - 1))]) for s in (_DARKEST, _BRIGHTEST))
    missing = max(0.0, _MIN_WIDTH - (high - low))
    low = max(0.0, low - missing / 2)
    return low, max(high, low + _MIN_WIDTH)


def _overlap(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Return the share of ``one`` that lies in ``other``."""
    shared = min(one[1], other[1]) - max(one[0], other[0])
    return max(0.0, shared) / (one[1] - one[0])
