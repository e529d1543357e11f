# SPDX-License-Identifier: Apache-2.0
"""Draw smooth text with OpenCV's stroke fonts, in sizes that follow the image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

RGB = tuple[int, int, int]

INK: RGB = (14, 17, 22)
PAPER: RGB = (240, 243, 247)
_SUPERSAMPLING = 4


@dataclass(frozen=True)
class DrawingSizes:
    """Line width, text height and margin, in pixels, for one image size."""

    line: int
    text: int
    margin: int

    @property
    def pad(self) -> int:
        """Pixels between a text and the border of its tag or strip."""
        return max(1, self.text // 6)

    @property
    def strip(self) -> int:
        """Height of a tag or strip."""
        return self.text + 2 * self.pad

    @staticmethod
    def for_image(height: int, width: int) -> DrawingSizes:
        """Return sizes that look alike from 320×240 to 1080p and beyond."""
        unit = min(height, width * 3 / 4) / 240.0
        return DrawingSizes(
            line=max(2, round(1.5 * unit**0.8)),
            text=max(10, round(12 * unit**0.8)),
            margin=max(3, round(4 * unit**0.85)),
        )


def text_width(text: str, height: int) -> int:
    """Return the width in pixels of a text of a given height, descenders included."""
    return _text_coverage(text, height).shape[1] if text else 0


@lru_cache(maxsize=256)
def _text_coverage(text: str, height: int) -> np.ndarray:
    """Return the coverage (height, width) in [0, 1] of a text, drawn large and averaged down.

    OpenCV's stroke fonts have ASCII only; any other character shows as a question mark.
    """
    text = text.encode("ascii", "replace").decode("ascii")
    font = cv2.FONT_HERSHEY_DUPLEX
    tall = height * _SUPERSAMPLING
    font_scale = tall * 0.70 / 21.0
    stroke = max(1, round(tall / 13.0))
    (text_width, _), _ = cv2.getTextSize(text, font, font_scale, stroke)
    tall_width = max(_SUPERSAMPLING, -(-(text_width + stroke) // _SUPERSAMPLING) * _SUPERSAMPLING)
    canvas = np.zeros((tall, tall_width), np.uint8)
    origin = (stroke // 2, round(tall * 0.77))
    cv2.putText(canvas, text, origin, font, font_scale, 255, stroke, cv2.LINE_AA)
    size = (tall_width // _SUPERSAMPLING, height)
    small = cv2.resize(canvas, size, interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / 255.0


def blend_text(
    canvas: np.ndarray, text: str, origin: tuple[int, int], height: int, colour: RGB
) -> None:
    """Blend a text into the canvas in place; its upper left corner is at ``origin`` (x, y)."""
    if not text:
        return
    coverage = _text_coverage(text, height)
    x, y = origin
    left, top = max(0, x), max(0, y)
    right = min(canvas.shape[1], x + coverage.shape[1])
    bottom = min(canvas.shape[0], y + coverage.shape[0])
    if right <= left or bottom <= top:
        return
    alpha = coverage[top - y : bottom - y, left - x : right - x, None]
    area = canvas[top:bottom, left:right]
    area[:] = mix(area, 1.0 - alpha, colour, alpha)


def mix(
    pixels: np.ndarray, kept: float | np.ndarray, colour: RGB, added: float | np.ndarray
) -> np.ndarray:
    """Return (..., 3) uint8: a share of some pixels plus a share of a colour, rounded."""
    mixed = pixels.astype(np.float32) * kept + np.asarray(colour, np.float32) * added
    return np.rint(mixed).astype(np.uint8)
