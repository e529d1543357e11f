# SPDX-License-Identifier: Apache-2.0
"""MAST's features as a graph; `matching.py` says what is matched with them afterwards.

Written for this package; the official code exports nothing.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from tracker_ros.engines.graph import Engine, EngineUnavailable, Graph, GraphSpec, TensorSpec
from tracker_ros.engines.select_backend import Backend
from tracker_ros.engines.torch_engine import TorchEngine
from tracker_ros.models.mast.config import STRIDE
from tracker_ros.models.mast.images import network_input
from tracker_ros.models.mast.network import MASTNetwork
from tracker_ros.models.mast.on_engines import ANY_SIZE
from tracker_ros.tracker import example_image


class _Features(nn.Module):
    def __init__(self, network: MASTNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.network(image),)


def any_size_graph(network: MASTNetwork, height: int, width: int) -> Graph:
    """Return the graph "features" for images of any size; its examples have this one."""
    (graph,) = graphs(network, height, width)
    channels = network.config.feature_dim
    spec = GraphSpec(
        ANY_SIZE,
        {"image": TensorSpec((1, 3, -1, -1))},
        {"features": TensorSpec((1, channels, -1, -1))},
        settings=graph.spec.settings,
    )
    return replace(graph, spec=spec)


def graphs(network: MASTNetwork, height: int, width: int) -> list[Graph]:
    """Return the graph "features" of a loaded network, for images of one size in pixels."""

    def example(seed: int) -> dict[str, Tensor]:
        image, _ = example_image(height, width, seed)
        return {"image": torch.from_numpy(network_input(image))}

    cells = (-(-height // STRIDE), -(-width // STRIDE))
    spec = GraphSpec(
        f"features_{height}x{width}",
        {"image": TensorSpec((1, 3, height, width))},
        {"features": TensorSpec((1, network.config.feature_dim, *cells))},
        settings=repr(network.config),
    )
    return [Graph(spec, _Features(network).eval(), example)]


_LOG = logging.getLogger(__name__)

_MAX_SIZES = 3


class MASTOnEngines:
    """Computes the features of one image at a time by engines; see `MASTInference`.

    A graph is made for one size of image; the first engine is for `size`, height and width. When
    another size comes, its engine is opened, which takes as long as loading a model; where it may
    not be built, torch computes that size. The engines of the last few sizes are kept.
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
            if len(self._engines) == _MAX_SIZES:
                del self._engines[next(iter(self._engines))]
            self._engines[size] = self._engine_for(*size)
        self._engine = self._engines[size]
        # An engine may reuse its memory, and features are remembered.
        return self._engine(image=pixels)["features"].clone()

    @property
    def runtime_info(self) -> dict[str, str]:
        """Back end, device and precision in use."""
        return self._engine.runtime_info
