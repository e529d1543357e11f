# SPDX-License-Identifier: Apache-2.0
"""Scenes on which trackers fail often enough to learn from it: photographs under a moving camera.

A camera pans over a photograph. The target is a segment of the photograph itself, so that its
surroundings and look-alikes are real and the truth is exact. The camera shakes, zooms and jumps,
other cut-outs pass in front, and in some scenes it looks elsewhere for a while.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tools.picture_bank import PICTURE_SUFFIXES, read_picture, segment_tile
from tracker_ros.synthetic.textures import LABEL, TILE

SIZE = (480, 360)
"""Width and height of the frames, pixels."""
FRAMES = 90
_FPS = 30.0
_TARGETS = (18.0, 90.0)
_MIN_VISIBLE = 0.35


@dataclass(frozen=True)
class Scene:
    """A camera's way over a photograph.

    Attributes:
        picture: (H, W, 3) RGB uint8.
        beyond: (H, W, 3) RGB uint8, what is seen beyond the edges of the picture.
        target: `(x, y, w, h)` in pixels of the picture.
        views: (N, 4) float64: the picture's pixel in the middle of each frame (x, y), frame pixels
            per picture pixel, and the angle in radians.
        patch: (h, w, 3) RGB uint8, what passes in front, in pixels of the frame; None for nothing.
        patch_path: (N, 2) its top left corner in each frame.
        noise: Standard deviation of pixel noise, grey levels.
        seed: Of the noise.
    """

    picture: np.ndarray
    beyond: np.ndarray
    target: tuple[float, float, float, float]
    views: np.ndarray
    patch: np.ndarray | None
    patch_path: np.ndarray
    noise: float
    seed: int

    def frames(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (H, W, 3) RGB uint8 images, and boxes (4,) xywh in pixels.

        A box is the whole target's, cut at the image's edges; NaN while little of it is seen.
        """
        generator = np.random.default_rng(self.seed)
        x, y, w, h = self.target
        corners = np.array([[x, y, 1], [x + w, y, 1], [x, y + h, 1], [x + w, y + h, 1]])
        for (cx, cy, scale, angle), place in zip(self.views, self.patch_path, strict=True):
            cos, sin = scale * math.cos(angle), scale * math.sin(angle)
            matrix = np.array([[cos, -sin, 0.0], [sin, cos, 0.0]])
            matrix[:, 2] = np.array(SIZE) / 2 - matrix[:, :2] @ [cx, cy]
            flags = cv2.INTER_AREA if scale < 0.7 else cv2.INTER_LINEAR
            image = cv2.warpAffine(
                self.beyond, matrix, SIZE, flags=flags, borderMode=cv2.BORDER_REFLECT_101
            )
            cv2.warpAffine(
                self.picture, matrix, SIZE, image, flags, borderMode=cv2.BORDER_TRANSPARENT
            )
            points = corners @ matrix.T
            low, high = points.min(0), points.max(0)
            shown = np.concatenate([np.clip(low, 0, SIZE), np.clip(high, 0, SIZE)])
            hidden = 0.0
            if self.patch is not None:
                size = np.array(self.patch.shape[1::-1])
                image = _pasted(image, self.patch, np.round(place).astype(int))
                hidden = _overlap(shown, np.concatenate([place, place + size]))
            whole = max(float(np.prod(high - low)), 1e-6)
            visible = (float(np.prod(shown[2:] - shown[:2])) - hidden) / whole
            box = np.concatenate([shown[:2], shown[2:] - shown[:2]])
            noisy = image + generator.normal(0.0, self.noise, image.shape)
            yield (
                np.clip(noisy, 0, 255).astype(np.uint8),
                box if visible >= _MIN_VISIBLE else np.full(4, np.nan),
            )


def draw_scene(pictures: list[Path], seed: int) -> Scene:
    """Return a scene over one of the pictures; the same seed gives the same scene.

    Raises:
        ValueError: A hundred draws gave no picture with a usable segment.
    """
    generator = np.random.default_rng(seed)
    for _ in range(100):
        picture, beyond = (_picture(pictures, generator) for _ in range(2))
        target = _segment(picture, generator)
        if target is not None:
            scene = _scene(picture, beyond, target, generator, seed)
            if np.isfinite(next(scene.frames())[1]).all():
                return scene
    raise ValueError("100 draws gave no picture with a segment; expected a folder of photographs")


def _picture(pictures: list[Path], generator: np.random.Generator) -> np.ndarray:
    """Return one of the pictures that can be read and have no transparency, 640 pixels or more."""
    for _ in range(100):
        read = read_picture(pictures[int(generator.integers(len(pictures)))])
        if read is not None and read[1] is None:
            grow = max(1.0, 640.0 / min(read[0].shape[:2]))
            return cv2.resize(read[0], None, fx=grow, fy=grow, interpolation=cv2.INTER_LINEAR)
    raise ValueError("100 draws gave no picture; expected a folder of photographs")


def list_pictures(folders: list[Path]) -> list[Path]:
    """Return the picture files under some folders, in order."""
    return sorted(
        path
        for folder in folders
        for path in folder.expanduser().rglob("*")
        if path.suffix.lower() in PICTURE_SUFFIXES
    )


def _segment(
    picture: np.ndarray, generator: np.random.Generator
) -> tuple[float, float, float, float] | None:
    """Return the box of a segment of a picture, not near its edges; None if there is none."""
    height, width = picture.shape[:2]
    side = int(min(height, width) * generator.uniform(0.35, 0.9))
    left, top = (
        int(generator.integers(width - side + 1)),
        int(generator.integers(height - side + 1)),
    )
    tile = cv2.resize(picture[top : top + side, left : left + side], (TILE, TILE))
    labels = segment_tile(tile, generator)
    if not labels.max():
        return None
    mask = (labels == generator.integers(1, labels.max() + 1)).astype(np.uint8)
    x, y, w, h = (value * side / LABEL for value in cv2.boundingRect(mask))
    return (left + x, top + y, w, h)


def _scene(
    picture: np.ndarray,
    beyond: np.ndarray,
    target: tuple[float, float, float, float],
    generator: np.random.Generator,
    seed: int,
) -> Scene:
    x, y, w, h = target
    wanted = math.exp(generator.uniform(*np.log(_TARGETS)))
    scale = float(np.clip(wanted / math.sqrt(w * h), 0.5, 3.0))
    time = np.arange(FRAMES) / _FPS
    calm = generator.uniform(0.0, 1.0)
    reach = 0.4 * np.array(SIZE) / scale
    path = _wander(generator, time, 2, period=4.0 - 2.5 * calm) * reach * calm
    shake = generator.normal(0, 1, (FRAMES, 2)).cumsum(0) * wanted / scale * 0.03 * calm
    path = path - path[0] + shake - shake[0]
    for start in generator.integers(15, FRAMES, generator.integers(0, 4)):  # jumps
        step = generator.normal(0, 1, 2) * wanted / scale * generator.uniform(0.5, 3.0)
        path[start:] += step
    if generator.random() < 0.35:  # looks elsewhere
        begin = int(generator.integers(15, FRAMES - 30))
        end = begin + int(generator.integers(15, 50))
        path[begin:end] += generator.choice([-1.0, 1.0], 2) * np.array(SIZE) / scale
    zoom = np.exp(0.35 * calm * (_wander(generator, time, 1, 4.0)[:, 0]))
    angle = 0.3 * calm * _wander(generator, time, 1, 4.0)[:, 0]
    offset = generator.uniform(-0.25, 0.25, 2) * np.array(SIZE) / scale
    views = np.column_stack(
        [
            x + w / 2 + offset[0] + path[:, 0],
            y + h / 2 + offset[1] + path[:, 1],
            scale * zoom / zoom[0],
            angle - angle[0],
        ]
    )
    patch, places = None, np.zeros((FRAMES, 2))
    if generator.random() < 0.4:
        side = int(wanted * generator.uniform(0.8, 2.5))
        rows, columns = (int(generator.integers(max(1, n - side))) for n in picture.shape[:2])
        patch = picture[rows : rows + side, columns : columns + side].copy()
        middle = np.array(SIZE) / 2 - offset * scale - side / 2
        speed = generator.normal(0, 1, 2) * wanted * generator.uniform(0.3, 2.0)
        places = middle + (time[:, None] - generator.uniform(1.0, 2.5)) * speed
    return Scene(
        picture, beyond, target, views, patch, places, float(generator.uniform(0, 6)), seed
    )


def _wander(
    generator: np.random.Generator, time: np.ndarray, axes: int, period: float
) -> np.ndarray:
    """Return smooth random paths (N, axes) within [-1, 1]."""
    rates = 2 * math.pi / (period * generator.uniform(0.7, 1.4, (axes, 2)) * [1.0, 0.41])
    phases = generator.uniform(0, 2 * math.pi, (axes, 2))
    return np.sin(time[:, None, None] * rates + phases) @ np.array([0.7, 0.3])


def _pasted(image: np.ndarray, patch: np.ndarray, place: np.ndarray) -> np.ndarray:
    left, top = place
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + patch.shape[1], SIZE[0]), min(top + patch.shape[0], SIZE[1])
    if x1 > x0 and y1 > y0:
        image[y0:y1, x0:x1] = patch[y0 - top : y1 - top, x0 - left : x1 - left]
    return image


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Return the common area of two boxes, x0, y0, x1, y1 each."""
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    return float(np.prod(np.clip(sides, 0, None)))
