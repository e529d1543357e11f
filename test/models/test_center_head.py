# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch

from tracker_ros.models.layers.center_head import CenterHead, HeadMaps, decode_box


def test_maps_have_the_right_shapes_and_ranges() -> None:
    torch.manual_seed(0)
    maps = CenterHead(embed_dim=16, channels=16).eval()(100.0 * torch.randn(2, 16, 6, 6))
    assert maps.score.shape == (2, 1, 6, 6)
    assert maps.size.shape == maps.offset.shape == (2, 2, 6, 6)
    for bounded in (maps.score, maps.size):
        assert bounded.min() >= 1e-4
        assert bounded.max() <= 1.0 - 1e-4


def test_box_is_read_at_the_maximum_of_the_given_score() -> None:
    score, size, offset = torch.rand(1, 1, 4, 4), torch.rand(1, 2, 4, 4), torch.rand(1, 2, 4, 4)
    score[0, 0, 2, 3] = 2.0
    found = decode_box(score, HeadMaps(torch.zeros(1, 1, 4, 4), size, offset))
    wanted = [
        (3 + offset[0, 0, 2, 3]) / 4,
        (2 + offset[0, 1, 2, 3]) / 4,
        size[0, 0, 2, 3],
        size[0, 1, 2, 3],
    ]
    torch.testing.assert_close(found, torch.stack(wanted)[None])


def test_half_precision_maps_are_returned_in_single() -> None:
    head = CenterHead(embed_dim=8, channels=8).eval().bfloat16()
    maps = head(torch.randn(1, 8, 4, 4, dtype=torch.bfloat16))
    assert all(m.dtype == torch.float32 for m in maps)
