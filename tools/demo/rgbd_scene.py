# SPDX-License-Identifier: Apache-2.0
"""A drawn RGB-D scene of which everything is known: where the target is, and how far away.

A figure on a board walks to and fro in front of a wall and above a floor, now nearer, now farther.
Sometimes a thin post stands between. The depth camera measures in whole millimetres with noise
that grows with the square of the depth, and misses some pixels, above all at edges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from tracker_ros.geometry import Box
from tracker_ros.spatial.camera import CameraModel

WIDTH, HEIGHT, FOCAL = 640, 480, 480.0
WALL_M, FLOOR_M, POST_M = 9.0, 1.1, 1.6
BOARD_M = (0.6, 1.3)
_NOISE_PER_M2 = 0.0015
_MISSED = 0.03


@dataclass(frozen=True)
class RgbdFrame:
    """One image of the scene."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    depth_mm: np.ndarray  # (H, W) uint16, millimetres; 0 where nothing was measured
    box: Box  # ``(x, y, w, h)`` of the target, pixels
    point: np.ndarray  # (3,) centre of the target in the optical frame, metres


class RgbdScene:
    """Draws the scene; equal seeds give equal images."""

    def __init__(self, seed: int = 4) -> None:
        self._rng = np.random.default_rng(seed)
        self.k = (FOCAL, 0.0, (WIDTH - 1) / 2, 0.0, FOCAL, (HEIGHT - 1) / 2, 0.0, 0.0, 1.0)
        self.camera = CameraModel.create((WIDTH, HEIGHT), self.k)
        self._ground, self._ground_m = self._background()
        self._board = self._figure()

    def point(self, time_s: float) -> np.ndarray:
        """Return where the centre of the target is, metres in the optical frame."""
        depth = 4.0 + 2.0 * math.sin(0.45 * time_s)
        return np.array([0.38 * depth * math.sin(0.8 * time_s), FLOOR_M - BOARD_M[1] / 2, depth])

    def frame(self, time_s: float, post: bool = True) -> RgbdFrame:
        """Draw the scene at a time; without ``post``, nothing is ever in front of the target."""
        point = self.point(time_s)
        x, y, z = point
        image, metres = self._ground.copy(), self._ground_m.copy()
        half_w, half_h = BOARD_M[0] / 2, BOARD_M[1] / 2
        corners = np.array([(x - half_w, y - half_h, z), (x + half_w, y + half_h, z)])
        (left, top), (right, bottom) = self.camera.project(corners) + 0.5
        high, wide = self._board.shape[:2]
        scale = np.array([[(right - left) / wide, 0, left], [0, (bottom - top) / high, top]])
        # OpenCV's coordinates begin in the middle of the first pixel.
        scale[:, 2] += scale[:, :2].sum(axis=1) / 2 - 0.5
        drawn = cv2.warpAffine(self._board, scale, (WIDTH, HEIGHT), flags=cv2.INTER_AREA)
        shape = cv2.warpAffine(np.ones((high, wide), np.float32), scale, (WIDTH, HEIGHT)) > 0.5
        image[shape], metres[shape] = drawn[shape], z
        if post:
            begin = round(WIDTH * 0.62)
            image[:, begin : begin + 14] = (92, 74, 60)
            metres[:, begin : begin + 14] = POST_M
        noise = self._rng.standard_normal(image.shape[:2]).astype(np.float32)
        measured = metres + _NOISE_PER_M2 * metres**2 * noise
        edges = cv2.morphologyEx(metres, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0.1
        missed = self._rng.random(metres.shape) < np.where(edges, 0.7, _MISSED)
        depth_mm = np.where(missed, 0, np.round(measured * 1000)).astype(np.uint16)
        grain = self._rng.integers(-4, 5, image.shape).astype(np.int16)
        image = np.clip(image.astype(np.int16) + grain, 0, 255).astype(np.uint8)
        box = (float(left), float(top), float(right - left), float(bottom - top))
        return RgbdFrame(image, depth_mm, box, point)

    def _background(self) -> tuple[np.ndarray, np.ndarray]:
        """Return image and depth of wall and floor."""
        coarse = self._rng.integers(70, 190, (12, 16, 3)).astype(np.uint8)
        image = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        rows = np.arange(HEIGHT, dtype=np.float32)[:, None] - (HEIGHT - 1) / 2
        with np.errstate(divide="ignore"):
            floor = np.where(rows > 0, FLOOR_M * FOCAL / np.maximum(rows, 1e-3), np.inf)
        metres = np.repeat(np.minimum(floor, WALL_M), WIDTH, axis=1).astype(np.float32)
        on_floor = metres < WALL_M
        stripes = (np.floor(metres * 2).astype(int) % 2 == 0) & on_floor
        image[on_floor] = (image[on_floor] * 0.6).astype(np.uint8)
        image[stripes] = (image[stripes] * 0.8).astype(np.uint8)
        return image, metres

    def _figure(self) -> np.ndarray:
        """Draw what is on the board."""
        board = np.full((260, 120, 3), (214, 66, 48), np.uint8)
        cv2.circle(board, (60, 45), 30, (246, 214, 170), -1)
        cv2.rectangle(board, (22, 82), (98, 170), (40, 70, 190), -1)
        cv2.rectangle(board, (30, 172), (54, 254), (30, 34, 44), -1)
        cv2.rectangle(board, (66, 172), (90, 254), (30, 34, 44), -1)
        cv2.line(board, (22, 84), (98, 168), (250, 236, 90), 9)
        return board
