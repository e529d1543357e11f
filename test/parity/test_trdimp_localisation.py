# SPDX-License-Identifier: Apache-2.0
"""Localisation's recorded score maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from golden_files import golden

from tracker_ros.crops import hann_window
from tracker_ros.models.trdimp.config import BASE, VOT
from tracker_ros.models.trdimp.localisation import localise
from tracker_ros.models.trdimp.patches import Placement

UNITS = golden("trdimp_tracker_units.npz")
CASES = UNITS.json("localize_json")


def test_all_cases_are_there() -> None:
    assert len(CASES) == 26


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["key"])
def test_flag_and_translation(case: dict[str, Any]) -> None:
    parameters = VOT if "_vot_" in case["key"] else BASE
    score = UNITS[f"{case['key']}_map"]
    placement = Placement(
        np.array([120.5, 160.5], dtype=np.float32),
        np.float32(0.9),
        parameters.image_sample_size,
    )
    sighting = localise(
        score,
        placement,
        np.array([118.0, 165.0], dtype=np.float32),
        np.asarray(case["target_sz_hw"], dtype=np.float32),
        parameters,
        hann_window(len(score)) if parameters.window_output else None,
    )
    assert sighting.verdict.value == case["flag"]
    assert sighting.translation.dtype == np.float32
    np.testing.assert_allclose(
        sighting.translation, UNITS[f"{case['key']}_translation"], rtol=1e-6
    )
    # The reported score is the plain map's, which must be left as it is.
    assert float(score.max()) == case["max_score_reported"]
    np.testing.assert_array_equal(score, UNITS[f"{case['key']}_scores_out"][0])
