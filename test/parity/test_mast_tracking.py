# SPDX-License-Identifier: Apache-2.0
"""MAST's masks over whole videos."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from golden_files import document, golden
from mast_golden_network import golden_network

from tracker_ros.models.mast.config import REFERENCE_MODES, PropagationParameters
from tracker_ros.models.mast.network import MASTInference
from tracker_ros.models.mast.tracker import MASTTracker

GOLDEN = golden("mast_e2e.npz")
FRAMES = GOLDEN["frames_u8"]
LARGEST_SHARE = 1e-3  # of a frame's pixels
OBJECTS = (1, 2)
OFFICIAL = {"behaviour": "official_torch11", "aligned": False}
SHORT_MEMORY = {"long_term_gap": 2, "aligned": False}

RUNS = {
    **{
        f"ref{number}": {**OFFICIAL, "reference_mode": mode}
        for number, mode in enumerate(REFERENCE_MODES)
    },
    "aligned_ref0": {"reference_mode": "all"},
    "aligned_ref2": {"reference_mode": "last"},
    "dil2_fixed": SHORT_MEMORY,
    "dil2_official_torch11": {**SHORT_MEMORY, "behaviour": "official_torch11"},
    "dil2_official_modern": {**SHORT_MEMORY, "behaviour": "official_modern"},
}


@cache
def model() -> MASTInference:
    """The network of all runs; it computes the features of an image once."""
    found = MASTInference(golden_network(), torch.device("cpu"))
    compute, known = found.features, {}

    def features(image: np.ndarray) -> torch.Tensor:
        key = image.tobytes()
        if key not in known:
            known[key] = compute(image)
        return known[key]

    found.features = features  # type: ignore[method-assign]
    return found


def label_maps(options: dict[str, object], frames: np.ndarray = FRAMES) -> np.ndarray:
    tracker = MASTTracker(model(), PropagationParameters(**options))  # type: ignore[arg-type]
    tracker.initialize_mask(frames[0], GOLDEN["true_labels"][0])
    found = [tracker.labels]
    for frame in frames[1:]:
        result = tracker.track(frame)
        assert result.mask is not None and tracker.labels is not None
        assert np.array_equal(result.mask, tracker.labels == 1)
        found.append(tracker.labels)
    return np.stack(found)


@pytest.mark.parametrize(
    "run",
    # The official long-term branch runs in plain torch.
    [pytest.param(run, marks=[pytest.mark.slow] * run.startswith("dil2_off")) for run in RUNS],
)
def test_masks_of_a_run(run: str) -> None:
    different = label_maps(RUNS[run]) != GOLDEN[f"{run}_masks"]
    assert different.mean(axis=(1, 2)).max() <= LARGEST_SHARE


@pytest.mark.parametrize("aligned", [False, True], ids=["official", "aligned"])
@pytest.mark.parametrize("number", [0, 2])
def test_masks_of_a_still_video_stay_only_where_cells_are_aligned(
    number: int, aligned: bool
) -> None:
    frames = np.stack([FRAMES[0]] * len(FRAMES))
    found = label_maps({"reference_mode": REFERENCE_MODES[number], "aligned": aligned}, frames)
    centroids = np.array(
        [[np.argwhere(labels == label).mean(axis=0) for label in OBJECTS] for labels in found]
    )
    way = "aligned" if aligned else "official"
    wanted = np.array(document("mast_notes")[f"still_ref{number}_{way}_centroids_yx"])
    np.testing.assert_allclose(centroids, wanted, rtol=0, atol=0.05)
    drift = np.abs(centroids[-1] - centroids[1]).max()
    assert drift < 0.1 if aligned else drift > 0.5
