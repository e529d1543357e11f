# SPDX-License-Identifier: Apache-2.0
"""MAST's features computed by engines, in place of `inference.py`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tracker_ros.engines.graph import Engine, Graph
from tracker_ros.models.mast.graphs import graphs
from tracker_ros.models.mast.lab import network_input
from tracker_ros.models.mast.network import MASTNetwork


class MASTOnEngines:
    """Features of one image at a time.

    A graph is made for one size of image, so the engine is exchanged when another size comes,
    which costs as long as loading a model.

    Args:
        network: Loaded, in eval mode.
        working_size: Shorter side of images; the first engine is for 4 : 3.
        open_engine: Makes the engine of a graph.
    """

    def __init__(
        self, network: MASTNetwork, working_size: int, open_engine: Callable[[Graph], Engine]
    ) -> None:
        self._network, self._open = network, open_engine
        self._engine = self._engine_for(working_size, round(working_size * 4 / 3))

    def _engine_for(self, height: int, width: int) -> Engine:
        (graph,) = graphs(self._network, height, width)
        return self._open(graph)

    @torch.inference_mode()
    def features(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 RGB -> (1, C, ceil(H / 4), ceil(W / 4)) float32."""
        pixels = torch.from_numpy(network_input(image))
        if tuple(pixels.shape) != self._engine.spec.inputs["image"].shape:
            self._engine = self._engine_for(*image.shape[:2])
        # An engine may reuse its memory, and features are remembered.
        return self._engine(image=pixels)["features"].clone()

    @property
    def runs_on(self) -> dict[str, str]:
        """Back end, device and precision in use."""
        return self._engine.runs_on
