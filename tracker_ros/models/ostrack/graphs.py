# SPDX-License-Identifier: Apache-2.0
"""OSTrack as static graphs, made of the modules of `network.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from tracker_ros.engines.graph import Graph
from tracker_ros.models.center_head import HeadMaps
from tracker_ros.models.one_stream_graphs import TrackGraph, one_stream_graphs
from tracker_ros.models.ostrack.candidate_elimination import RankingRows, ranking_rows
from tracker_ros.models.ostrack.network import OSTrackNetwork


class OSTrackGraph(TrackGraph):
    """Search region to maps; how many candidates are kept is fixed, as is which tokens rank."""

    network: OSTrackNetwork
    position: Tensor
    weight: Tensor

    def __init__(self, network: OSTrackNetwork) -> None:
        super().__init__(network)
        config = network.config
        if config.ce_template_range == "GT_BOX" and config.ce_layers:
            raise ValueError(
                "ce_template_range 'GT_BOX' ranks by tokens that differ from target to target, "
                "which a static graph cannot; expected ALL, CTR_POINT or CTR_REC"
            )
        rows = ranking_rows(
            network.template_mask(torch.zeros(1, 4)),
            1,
            config.template_grid**2,
            torch.device("cpu"),
        )
        self.register_buffer("position", rows.position)
        self.register_buffer("weight", rows.weight)

    def maps(self, template_tokens: Tensor, search_tokens: Tensor) -> HeadMaps:
        """(B, Nz, C) and (B, Nx, C) embedded tokens -> maps."""
        batch = len(search_tokens)
        rows = RankingRows(self.position.expand(batch, -1), self.weight.expand(batch, -1))
        return self.network.head(self.network.backbone(template_tokens, search_tokens, rows))


def graphs(network: OSTrackNetwork) -> list[Graph]:
    """Graphs "template" and "track" of a loaded network."""
    return one_stream_graphs(OSTrackGraph(network), repr(network.config))
