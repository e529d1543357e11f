# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch

from tracker_ros.crops import (
    box_in_crop,
    crop_region,
    crop_square,
    crops_to,
    hann_window,
    map_box_back,
    normalize,
    normalize_bytes,
    normalize_tensor,
)

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(1, 255, (60, 80, 3), dtype=np.uint8)


def test_region_is_centred_and_rounded_half_to_even() -> None:
    region = crop_region((10, 20, 8, 8), factor=2.0)
    assert (region.left, region.top, region.side) == (6, 16, 16)
    region = crop_region((10, 21, 9, 9), factor=2.0)
    assert (region.left, region.top, region.side) == (6, 16, 18)


def test_crop_inside_is_the_image_itself() -> None:
    crop, factor = crop_square(IMAGE, (30, 20, 10, 10), factor=2.0, size=20)
    assert factor == 1.0
    np.testing.assert_array_equal(crop, IMAGE[15:35, 25:45])


def test_outside_is_black_and_the_last_row_and_column_are_lost() -> None:
    crop, factor = crop_square(IMAGE, (70, 50, 10, 10), factor=2.0, size=20)
    assert factor == 1.0
    wanted = np.zeros((20, 20, 3), dtype=np.uint8)
    wanted[:14, :14] = IMAGE[45:59, 65:79]
    np.testing.assert_array_equal(crop, wanted)


def test_left_and_top_lose_nothing() -> None:
    crop, _ = crop_square(IMAGE, (0, 0, 10, 10), factor=2.0, size=20)
    wanted = np.zeros((20, 20, 3), dtype=np.uint8)
    wanted[5:, 5:] = IMAGE[:15, :15]
    np.testing.assert_array_equal(crop, wanted)


@pytest.mark.parametrize(
    "box", [(-90, 5, 10, 10), (5, -90, 10, 10), (200, 5, 9, 9), (5, 99, 9, 9)]
)
def test_crop_that_misses_the_image_is_black(box) -> None:
    crop, _ = crop_square(IMAGE, box, factor=2.0, size=16)
    assert crop.shape == (16, 16, 3)
    assert not crop.any()


@pytest.mark.parametrize("box", [(5, 5, 0, 10), (5, 5, 10, 0), (5, 5, -3, 4)])
def test_box_without_area_is_named(box) -> None:
    with pytest.raises(ValueError, match="has no area"):
        crop_square(IMAGE, box, factor=2.0, size=16)


def test_normalised_mean_colour_is_zero() -> None:
    colour = np.array([0.485, 0.456, 0.406]) * 255.0
    crop = np.broadcast_to(np.round(colour), (4, 4, 3)).astype(np.uint8)
    found = normalize(crop)
    assert found.shape == (1, 3, 4, 4)
    assert found.dtype == np.float32
    assert np.abs(found).max() < 0.5 / 255 / 0.224 + 1e-6


def test_every_level_of_every_channel_is_normalised() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    crop = np.stack([levels, levels[::-1], levels.T], axis=-1)
    mean, deviation = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    wanted = (crop / 255.0 - mean) / deviation
    np.testing.assert_allclose(normalize(crop)[0], wanted.transpose(2, 0, 1), atol=1e-6)


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
        np.testing.assert_array_equal(sample, normalize(crop)[0])


def test_bytes_become_the_same_numbers_where_the_network_runs() -> None:
    found = normalize_bytes(torch.from_numpy(np.stack(CROPS)))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, normalize(*CROPS), rtol=0, atol=1e-6)


@pytest.mark.gpu
def test_a_gpu_gets_the_same_numbers_however_soon_the_next_crops_come() -> None:
    device = torch.device("cuda", 0)
    given = [crops_to(device, [crop]) for crop in CROPS * 50]
    for crop, found in zip(CROPS * 50, given, strict=True):
        np.testing.assert_allclose(found.cpu(), normalize(crop), rtol=0, atol=1e-6)


def test_a_tensor_becomes_the_same_numbers() -> None:
    images = torch.from_numpy(np.stack(CROPS)).permute(0, 3, 1, 2) / 255.0
    before = images.clone()
    found = normalize_tensor(images)
    np.testing.assert_allclose(found, normalize(*CROPS), rtol=0, atol=1e-6)
    assert torch.equal(images, before), "the images are left as they are"
    assert torch.equal(normalize_tensor(images[None, 1]), found[None, 1])


def test_window_is_positive_symmetric_and_peaks_in_the_middle() -> None:
    window = hann_window(16)
    assert window.min() > 0.0
    np.testing.assert_allclose(window, window[::-1, ::-1], atol=1e-7)
    assert window[7, 7] == window.max() > 0.98


def test_a_box_survives_the_way_to_the_crop_and_back() -> None:
    previous, target = (30.3, 20.6, 10.0, 14.0), (33.0, 22.0, 9.0, 15.0)
    size = 256
    _, factor = crop_square(IMAGE, previous, factor=4.0, size=size)
    x, y, w, h = box_in_crop(target, previous, factor, size)
    in_image = [(x + w / 2) * size / factor, (y + h / 2) * size / factor]
    in_image += [w * size / factor, h * size / factor]
    found = map_box_back(in_image, previous, factor, size)
    # The two directions put the centre of a crop half a crop pixel apart.
    np.testing.assert_allclose(found, target, atol=0.5 / factor + 1e-9)
