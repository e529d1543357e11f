# SPDX-License-Identifier: Apache-2.0
"""Networks that are run with crops of other sizes than they were trained with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_networks import SMALL_OSTRACK

from tracker_ros.checkpoints import write_weights
from tracker_ros.models.one_stream.factory import load_network
from tracker_ros.models.one_stream.ostrack import OSTrackNetwork


def test_other_sizes_of_crops_interpolate_the_positions(tmp_path: Path) -> None:
    torch.manual_seed(2)
    path = tmp_path / "small.safetensors"
    trained = OSTrackNetwork(SMALL_OSTRACK)
    # A plane of positions nearly stays one, where cells lie half as far apart.
    rows = torch.arange(8.0)[:, None].expand(8, 8).reshape(1, 64, 1)
    with torch.no_grad():
        trained.backbone.pos_embed_x.copy_(rows.expand_as(trained.backbone.pos_embed_x))
    write_weights(trained.state_dict(), path)

    def load(**settings: int) -> OSTrackNetwork:
        return load_network(OSTrackNetwork, SMALL_OSTRACK, settings, path, None)

    same, larger = load().backbone, load(search_size=128).backbone
    assert torch.equal(same.pos_embed_x, trained.backbone.pos_embed_x)
    assert torch.equal(larger.pos_embed_z, trained.backbone.pos_embed_z)
    assert larger.config.search_grid == 16
    grid = larger.pos_embed_x[0].unflatten(0, (16, 16))
    torch.testing.assert_close(grid[4:12, 3, 0], torch.arange(1.75, 5.5, 0.5), atol=0.06, rtol=0)
    with pytest.raises(ValueError, match="search_size 100 is not a multiple"):
        load(search_size=100)
