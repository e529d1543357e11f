# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tracker_ros.models.layers.center_head import CenterHead
from tracker_ros.models.layers.packed import Layers
from tracker_ros.models.one_stream.candidate_elimination import restore_raster
from tracker_ros.models.one_stream.fast_cpu import CandidateHead

GRID = 6


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize(
    "position",
    [[0], [GRID - 1, GRID * GRID - 1, 14, 15], list(reversed(range(GRID * GRID)))],
    ids=["one corner", "corners and neighbours", "all"],
)
@torch.inference_mode()
def test_maps_are_those_of_the_dense_head(position: list[int], packed: bool) -> None:
    torch.manual_seed(0)
    head = CenterHead(embed_dim=20, channels=16).eval()
    for norm in (m for m in head.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean, -0.5, 0.5)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    tokens, places = torch.randn(1, len(position), 20), torch.tensor([position])
    raster = restore_raster(tokens, places, GRID * GRID)
    wanted = head(raster.transpose(1, 2).unflatten(2, (GRID, GRID)))
    layers = Layers.on(torch.device("cpu"), packed=packed)
    found = CandidateHead(copy.deepcopy(head), GRID, layers)(tokens, places)
    for ours, dense in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, dense, rtol=0, atol=1e-5)
