# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import torch

from tracker_ros.models.layers.center_head import HeadMaps
from tracker_ros.models.layers.head_maps import maps_from


def test_maps_come_as_one() -> None:
    score, size, offset = torch.rand(2, 1, 4, 4), torch.rand(2, 2, 4, 4), torch.rand(2, 2, 4, 4)
    found = maps_from(HeadMaps(score, size, offset.double()))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:, :1], score)
    np.testing.assert_array_equal(found[:, 1:3], size)
    np.testing.assert_array_equal(found[:, 3:], offset)
