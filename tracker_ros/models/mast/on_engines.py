# SPDX-License-Identifier: Apache-2.0
"""MAST's features computed by the graph that is part of the package, for images of any size."""

from __future__ import annotations

import numpy as np

from tracker_ros.engines.graph import Engine
from tracker_ros.models.mast.images import network_input

ANY_SIZE = "features"
"""Name of the graph."""


class EmbeddedFeatures:
    """Computes the features of one image at a time on NumPy arrays; see `MASTInference`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def features(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB -> (1, C, ceil(H / 4), ceil(W / 4)) float32."""
        found: np.ndarray = self._engine(image=network_input(image))["features"]
        return found

    @property
    def runtime_info(self) -> dict[str, str]:
        """Back end, device and precision in use."""
        return self._engine.runtime_info
