# SPDX-License-Identifier: Apache-2.0
"""Patches, their coordinates, and what follows from these."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from golden_files import golden, stats

from tracker_ros.models.trdimp.localisation import keep_inside
from tracker_ros.models.trdimp.patches import Border, Placement, Span, Window, choose_window, cut

PATCHES = golden("trdimp_sample_patch.npz")
UNITS = golden("trdimp_tracker_units.npz")
CASES = PATCHES.json("cases_json")
GREY_LEVELS = 0.01

# The official tracker limits the shrinking in its own mode only.
MAX_SHRUNK = {Border.INSIDE_MAJOR: 1.5}


@pytest.mark.parametrize("border", Border, ids=lambda b: b.value)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
def test_patch(case: dict[str, Any], border: Border) -> None:
    frame = PATCHES["frame_u8"]
    position = np.asarray(case["pos_yx"], dtype=np.float32)
    size = np.asarray(case["size_hw"], dtype=np.float32)
    limit = MAX_SHRUNK.get(border, np.inf)
    window = choose_window(position, size, case["out"], frame.shape, border, limit)
    prefix = f"{case['name']}_{border.value}"
    np.testing.assert_array_equal([window.coordinates], PATCHES[f"{prefix}_coord"])

    patch = cut(frame, window, case["out"])
    assert patch.dtype == np.float32
    stored = PATCHES[f"{prefix}_patch"]
    stride = -(-case["out"] // stored.shape[-1])
    shown = patch[0, :, ::stride, ::stride]
    np.testing.assert_allclose(shown, stored, rtol=0, atol=GREY_LEVELS)
    if f"{prefix}_stats" in PATCHES:
        wanted = PATCHES[f"{prefix}_stats"]
        scale = [1, 1, patch.size, 1, 1]
        assert np.all(np.abs(stats(patch) - wanted) <= np.multiply(scale, GREY_LEVELS))


def test_placement() -> None:
    rows = UNITS["sample_coords"]
    for (top, left, bottom, right), position, scale in zip(
        rows, UNITS["sample_pos"], UNITS["sample_scales"], strict=True
    ):
        window = Window(
            Span(int(top), int(bottom - top), 1, 0), Span(int(left), int(right - left), 1, 0)
        )
        placement = Placement.of(window, 352)
        np.testing.assert_array_equal(placement.position, position)
        np.testing.assert_allclose(placement.scale, scale, rtol=1e-6)


def test_box_in_patch() -> None:
    for row, wanted in zip(UNITS["iounet_box_in"], UNITS["iounet_box_out"], strict=True):
        placement = Placement(row[4:6], row[6], 352)
        box = placement.box_in_patch(row[:2], row[2:4])
        assert box.dtype == np.float32
        np.testing.assert_allclose(box, wanted, rtol=1e-6)


def test_position_is_held_near_the_image() -> None:
    size = np.array([40.0, 30.0], dtype=np.float32)
    for position, wanted in zip(UNITS["update_state_in"], UNITS["update_state_out"], strict=True):
        held = keep_inside(position, size, (240, 320), 0.2)
        np.testing.assert_allclose(held, wanted, rtol=1e-6)
