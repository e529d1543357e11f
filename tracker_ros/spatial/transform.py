# SPDX-License-Identifier: Apache-2.0
"""Transforms between frames of coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Transform:
    """From one frame's coordinates to another's: ``rotation @ point + translation``."""

    rotation: np.ndarray  # (3, 3) float64
    translation: np.ndarray  # (3,) float64, metres
    quaternion: tuple[float, float, float, float]  # (x, y, z, w), the same rotation

    @classmethod
    def create(cls, translation: Sequence[float], quaternion: Sequence[float]) -> Transform:
        """Make a transform from a translation and a quaternion (x, y, z, w).

        Raises:
            ValueError: The numbers are not finite, or the quaternion is zero.
        """
        q: np.ndarray = np.asarray(quaternion, dtype=np.float64)
        moved: np.ndarray = np.asarray(translation, dtype=np.float64)
        length = float(np.linalg.norm(q))
        if not (np.isfinite(moved).all() and np.isfinite(length) and length > 1e-6):
            raise ValueError(
                f"transform has translation {moved.tolist()} and rotation {q.tolist()}, expected "
                "finite numbers and a unit quaternion"
            )
        x, y, z, w = (q / length).tolist()
        rotation = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )
        return cls(rotation, moved, (x, y, z, w))

    def apply(self, position: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return a position (3,) and its covariance (3, 3) in the other frame."""
        rotation = self.rotation
        return rotation @ position + self.translation, rotation @ covariance @ rotation.T
