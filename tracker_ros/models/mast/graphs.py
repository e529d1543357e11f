# SPDX-License-Identifier: Apache-2.0
"""MAST's features as a static graph; what is matched with them afterwards runs in torch.

Written for this package; the official code exports nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tracker_ros.engines.graph import Graph, GraphSpec, TensorSpec
from tracker_ros.models.mast.config import STRIDE
from tracker_ros.models.mast.lab import network_input
from tracker_ros.models.mast.network import MASTNetwork

_LEAST_SCENE = 64


class _Features(nn.Module):
    def __init__(self, network: MASTNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.network(image),)


def graphs(network: MASTNetwork, height: int, width: int) -> list[Graph]:
    """Graph "features" of a loaded network, for images of one size.

    Args:
        network: In eval mode.
        height: Of the working image, in pixels.
        width: Likewise.
    """

    def example(seed: int) -> dict[str, Tensor]:
        from tracker_ros.synthetic.video import synthetic_video

        scene = (max(width, _LEAST_SCENE), max(height, _LEAST_SCENE))
        (frame,) = synthetic_video(seed=seed, frames=1, size=scene)
        return {"image": torch.from_numpy(network_input(frame.image[:height, :width]))}

    cells = (-(-height // STRIDE), -(-width // STRIDE))
    spec = GraphSpec(
        f"features_{height}x{width}",
        {"image": TensorSpec((1, 3, height, width))},
        {"features": TensorSpec((1, network.config.feature_dim, *cells))},
        settings=repr(network.config),
    )
    return [Graph(spec, _Features(network).eval(), example)]
