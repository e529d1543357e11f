# SPDX-License-Identifier: Apache-2.0
"""Crops, windows and box arithmetic before and after the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from golden_files import golden

from tracker_ros.crops import (
    box_in_crop,
    crop_region,
    crop_square,
    hann_window,
    map_box_back,
    normalize,
)
from tracker_ros.geometry import clip_box

GOLDEN = golden("prepost.npz")
CASES: list[dict[str, Any]] = GOLDEN.meta["cases"]
IMAGE = GOLDEN["image_rgb"]


def key_of(case: dict[str, Any]) -> str:
    return f"{case['name']}_f{case['factor']:g}"


def padding_of(case: dict[str, Any]) -> np.ndarray:
    """The official attention mask of a crop: True where bilinear resizing sees only padding.

    The package computes none, since networks do not use it; here it shows where the image lies.
    """
    import cv2

    region = crop_region(case["box"], case["factor"])
    rows, columns = region.visible(*IMAGE.shape[:2])
    padding = np.ones((region.side, region.side), dtype=np.float64)
    padding[
        rows.start - region.top : rows.stop - region.top,
        columns.start - region.left : columns.stop - region.left,
    ] = 0.0
    return cv2.resize(padding, (case["size"], case["size"])).astype(bool)


def shows_image(case: dict[str, Any]) -> bool:
    """Whether the crop reaches the image: left of and above it the official code wraps round."""
    region = crop_region(case["box"], case["factor"])
    return region.left + region.side >= 0 and region.top + region.side >= 0


@pytest.mark.parametrize("case", [c for c in CASES if c["ok"]], ids=key_of)
def test_crop(case: dict[str, Any]) -> None:
    crop, factor = crop_square(IMAGE, case["box"], case["factor"], case["size"])
    assert factor == pytest.approx(case["resize_factor"], rel=1e-9)
    region = crop_region(case["box"], case["factor"])
    assert region.side == case["crop_side_px"]
    if not shows_image(case):
        assert not crop.any()
        return
    key = key_of(case)
    if f"crop/{key}" in GOLDEN:
        np.testing.assert_array_equal(crop, GOLDEN[f"crop/{key}"])
    else:
        np.testing.assert_array_equal(crop[::5, ::5], GOLDEN[f"cropsub/{key}"])
    assert int(crop.sum()) == case["crop_sum"]


@pytest.mark.parametrize("case", [c for c in CASES if c["ok"] and shows_image(c)], ids=key_of)
def test_padding_lies_where_officially(case: dict[str, Any]) -> None:
    size, padding = case["size"], padding_of(case)
    wanted = np.unpackbits(GOLDEN[f"mask/{key_of(case)}"])[: size * size].reshape(size, size)
    np.testing.assert_array_equal(padding, wanted.astype(bool))
    assert int(padding.sum()) == case["mask_count"]


@pytest.mark.parametrize("case", [c for c in CASES if not c["ok"]], ids=key_of)
def test_crop_of_an_empty_box_is_an_error(case: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no area"):
        crop_square(IMAGE, case["box"], case["factor"], case["size"])


def test_hann_windows() -> None:
    names = [name for name in GOLDEN.arrays if name.startswith("hann_")]
    assert names
    for name in names:
        wanted = GOLDEN[name][0, 0]
        np.testing.assert_allclose(hann_window(len(wanted)), wanted, rtol=0, atol=5e-7)


def test_boxes_are_mapped_back() -> None:
    names = [name for name in GOLDEN.arrays if name.startswith("map_result_")]
    assert names
    given = list(
        zip(
            GOLDEN["map_pred_cxcywh"],
            GOLDEN["map_state_xywh"],
            GOLDEN["map_resize_factor"],
            strict=True,
        )
    )
    for name in names:
        size = int(name.split("_")[2])
        found = [map_box_back(pred, state, factor, size) for pred, state, factor in given]
        np.testing.assert_allclose(found, GOLDEN[name], rtol=1e-9)


def test_boxes_are_clipped() -> None:
    height, width = (int(v) for v in GOLDEN["clip_size_hw"])
    names = [name for name in GOLDEN.arrays if name.startswith("clip_out_margin")]
    assert names
    for name in names:
        margin = float(name.removeprefix("clip_out_margin"))
        found = [clip_box(box, height, width, margin) for box in GOLDEN["clip_in_xywh"]]
        np.testing.assert_allclose(found, GOLDEN[name], rtol=1e-9)


def test_boxes_seen_from_a_crop() -> None:
    states, factors = GOLDEN["map_state_xywh"], GOLDEN["map_resize_factor"]
    found = []
    for size in (128, 192):
        found += [box_in_crop(states[i], states[i + 1], factors[i], size) for i in range(6)]
        found.append(box_in_crop(states[0], states[0], factors[0], size))
    np.testing.assert_allclose(found, GOLDEN["to_crop_result_xywh"], rtol=1e-6, atol=1e-6)


def test_normalised_image() -> None:
    np.testing.assert_allclose(normalize(GOLDEN["norm_in"]), GOLDEN["norm_out"], atol=1e-6)
