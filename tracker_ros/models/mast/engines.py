# SPDX-License-Identifier: Apache-2.0
"""MAST's features computed by engines, in place of `inference.py`."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from tracker_ros.engines.backend import Backend
from tracker_ros.engines.graph import Engine, EngineUnavailable
from tracker_ros.engines.torch_engine import TorchEngine
from tracker_ros.models.mast.graphs import graphs
from tracker_ros.models.mast.lab import network_input
from tracker_ros.models.mast.network import MASTNetwork

_LOG = logging.getLogger(__name__)

_MOST_SIZES = 3


class MASTOnEngines:
    """Features of one image at a time.

    A graph is made for one size of image. When another size comes, its engine is opened, which
    takes as long as loading a model; where it may not be built, torch computes that size. The
    engines of the last few sizes are kept.

    Args:
        network: Loaded, in eval mode.
        size: Height and width of the images that the first engine is for.
        backend: Opens engines.
    """

    def __init__(self, network: MASTNetwork, size: tuple[int, int], backend: Backend) -> None:
        self._network, self._backend = network, backend
        (graph,) = graphs(network, *size)
        self._engine = backend.open(graph)
        self._engines = {size: self._engine}

    def _engine_for(self, height: int, width: int) -> Engine:
        (graph,) = graphs(self._network, height, width)
        try:
            return self._backend.open(graph)
        except EngineUnavailable as error:
            _LOG.warning(
                "torch computes images of %d x %d px, for which %s has no engine: %s; prepare it "
                "with the option aspect=%.4f",
                width,
                height,
                self._backend.name,
                error,
                width / height,
            )
            return TorchEngine(graph, "fp32", self._backend.device)

    @torch.inference_mode()
    def features(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 RGB -> (1, C, ceil(H / 4), ceil(W / 4)) float32."""
        pixels = torch.from_numpy(network_input(image))
        size = (image.shape[0], image.shape[1])
        if size not in self._engines:
            if len(self._engines) == _MOST_SIZES:
                del self._engines[next(iter(self._engines))]
            self._engines[size] = self._engine_for(*size)
        self._engine = self._engines[size]
        # An engine may reuse its memory, and features are remembered.
        return self._engine(image=pixels)["features"].clone()

    @property
    def runs_on(self) -> dict[str, str]:
        """Back end, device and precision in use."""
        return self._engine.runs_on
