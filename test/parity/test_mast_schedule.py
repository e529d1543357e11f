# SPDX-License-Identifier: Apache-2.0
"""Which frames MAST refers to, against the official loop's record."""

from __future__ import annotations

import pytest
from golden_files import document

from tracker_ros.models.mast.config import (
    REFERENCE_MODES,
    PropagationParameters,
    frames_to_keep,
    reference_frames,
)


@pytest.mark.parametrize(("number", "mode"), enumerate(REFERENCE_MODES))
def test_reference_frames_of_every_mode(number: int, mode: str) -> None:
    parameters = PropagationParameters(reference_mode=mode)
    recorded = document("mast_schedule")[str(number)]
    assert len(recorded) >= 60
    for row in recorded:
        found = reference_frames(row["predict_frame"], parameters)
        assert found == row["reference_frames"], row["predict_frame"]


@pytest.mark.parametrize("mode", REFERENCE_MODES)
def test_what_is_kept_suffices_and_is_bounded(mode: str) -> None:
    parameters = PropagationParameters(reference_mode=mode)
    kept: set[int] = set()
    for frame in range(300):
        if frame:
            assert set(reference_frames(frame, parameters)) <= kept
        kept = (kept | {frame}) & frames_to_keep(frame, parameters)
        assert len(kept) <= 7
