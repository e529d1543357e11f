# SPDX-License-Identifier: Apache-2.0
"""GRM as static graphs, made of the modules of `network.py`.

The division stays what it is there: a mask within a softmax in float32. An additive mask would
leave out the trace of weight that the official softmax gives to masked pairs.
"""

from __future__ import annotations

from torch import Tensor

from tracker_ros.engines.graph import Graph
from tracker_ros.models.center_head import HeadMaps
from tracker_ros.models.grm.network import GRMNetwork
from tracker_ros.models.one_stream_graphs import TrackGraph, one_stream_graphs


class GRMGraph(TrackGraph):
    """Search region to maps, with the threshold of the division fixed."""

    network: GRMNetwork

    def __init__(self, network: GRMNetwork, threshold: float) -> None:
        super().__init__(network)
        if network.config.target_type.startswith("roi"):
            raise ValueError(
                f"target type {network.config.target_type!r} reads the target's box in every "
                "frame, which these graphs do not take; expected allmax or allavg"
            )
        self.threshold = threshold

    def maps(self, template_tokens: Tensor, search_tokens: Tensor) -> HeadMaps:
        """(B, Nz, C) and (B, Nx, C) embedded tokens -> maps."""
        tokens, _ = self.network.backbone(template_tokens, search_tokens, threshold=self.threshold)
        return self.network.maps(tokens[:, template_tokens.shape[1] :])


def graphs(network: GRMNetwork, threshold: float = 0.0) -> list[Graph]:
    """Graphs "template" and "track" of a loaded network.

    Args:
        network: In eval mode.
        threshold: Of the division, see `GRMConfig.threshold_of`.
    """
    settings = f"{network.config!r}, threshold {threshold}"
    return one_stream_graphs(GRMGraph(network, threshold), settings)
