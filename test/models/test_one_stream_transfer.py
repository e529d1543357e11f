# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch

from tracker_ros.crops import normalise
from tracker_ros.models.layers.center_head import HeadMaps
from tracker_ros.models.one_stream.network import crops_to, maps_from, normalise_there

# Every level of every channel, and no two crops alike.
LEVELS = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
CROPS = [
    np.concatenate([np.roll(LEVELS, shift), 255 - LEVELS, LEVELS.transpose(1, 0, 2)], axis=2)
    for shift in (0, 7, 100)
]


def test_crops_are_normalised_each_in_its_place() -> None:
    found = crops_to(torch.device("cpu"), CROPS)
    assert found.shape == (3, 3, 16, 16)
    for crop, sample in zip(CROPS, found, strict=True):
        np.testing.assert_array_equal(sample, normalise(crop)[0])


def test_bytes_become_the_same_numbers_where_the_network_runs() -> None:
    found = normalise_there(torch.from_numpy(np.stack(CROPS)))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, normalise(*CROPS), rtol=0, atol=1e-6)


def test_maps_come_as_one() -> None:
    score, size, offset = torch.rand(2, 1, 4, 4), torch.rand(2, 2, 4, 4), torch.rand(2, 2, 4, 4)
    found = maps_from(HeadMaps(score, size, offset.double()))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:, :1], score)
    np.testing.assert_array_equal(found[:, 1:3], size)
    np.testing.assert_array_equal(found[:, 3:], offset)


@pytest.mark.gpu
def test_a_gpu_gets_the_same_numbers_however_soon_the_next_crops_come() -> None:
    device = torch.device("cuda", 0)
    given = [crops_to(device, [crop]) for crop in CROPS * 50]
    for crop, found in zip(CROPS * 50, given, strict=True):
        np.testing.assert_allclose(found.cpu(), normalise(crop), rtol=0, atol=1e-6)
