# SPDX-License-Identifier: Apache-2.0
"""The depth of a target among background, holes and what passes in front."""

from __future__ import annotations

import numpy as np
import pytest

from tracker_ros.spatial.depth import target_depth, target_region


def picture(background: float, target: float, share: float, noise: float = 0.0) -> np.ndarray:
    """A depth image (60, 80) whose left part shows the target."""
    rng = np.random.default_rng(2)
    depths = np.full((60, 80), background)
    depths[:, : round(80 * share)] = target
    return (depths * (1 + noise * rng.standard_normal(depths.shape))).astype(np.float32)


def test_the_mode_is_taken_and_not_the_mean():
    found = target_depth(picture(9.0, 2.0, 0.6, noise=0.01))
    assert found.depth == pytest.approx(2.0, rel=0.005)
    assert 0.5 * 0.02**2 < found.variance < 2 * (0.02**2 + 0.01**2)


@pytest.mark.parametrize("hole", [0.0, np.nan, np.inf, -1.0])
def test_holes_do_not_count(hole):
    depths = picture(9.0, 2.0, 0.6)
    depths[::2] = hole
    assert target_depth(depths).depth == pytest.approx(2.0)


def test_a_target_that_is_mostly_hole_has_no_depth():
    depths = np.zeros((60, 80), np.float32)
    assert target_depth(depths) is None
    depths[0, :100] = 2.0
    assert target_depth(depths) is None


def test_only_the_mask_counts():
    depths, mask = picture(9.0, 2.0, 0.2), np.zeros((60, 80), bool)
    mask[:, :10] = True
    assert target_depth(depths).depth == pytest.approx(9.0)
    assert target_depth(depths, mask).depth == pytest.approx(2.0)


def test_of_two_surfaces_the_expected_one_is_taken_unless_it_is_small():
    assert target_depth(picture(9.0, 2.0, 0.4), expected=2.2).depth == pytest.approx(2.0)
    assert target_depth(picture(9.0, 2.0, 0.4), expected=8.0).depth == pytest.approx(9.0)
    assert target_depth(picture(9.0, 2.0, 0.1), expected=2.0).depth == pytest.approx(9.0)


def test_the_variance_grows_with_the_distance():
    assert target_depth(picture(9, 9, 1)).variance > 10 * target_depth(picture(2, 2, 1)).variance


def test_a_large_region_is_as_good_as_a_small_one():
    large = np.kron(picture(9.0, 2.0, 0.6, noise=0.01), np.ones((8, 8), np.float32))
    assert target_depth(large).depth == pytest.approx(2.0, rel=0.01)


def test_the_region_is_the_middle_of_the_box_within_the_image():
    assert target_region((10, 20, 40, 80), 640, 480) == (20, 40, 40, 80)
    assert target_region((10, 20, 40, 80), 640, 480, np.ones((480, 640), bool)) == (
        10,
        20,
        50,
        100,
    )
    assert target_region((-30, -40, 80, 100), 640, 480) == (0, 0, 30, 35)
    assert target_region((700, 20, 40, 80), 640, 480) is None
