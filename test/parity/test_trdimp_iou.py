# SPDX-License-Identifier: Apache-2.0
"""TrDiMP's IoU branch: prediction, its gradient, and the refinement of boxes."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from golden_files import golden, helper, seed_of, stats
from torch import Tensor
from trdimp_golden_network import golden_network, relative_difference

from tracker_ros.models.layers.resnet import Features
from tracker_ros.models.trdimp.boxes import BoxRefinement
from tracker_ros.models.trdimp.config import BASE, TrackingParameters

FEATURE_TOLERANCE = 1e-5
TOLERANCE = 2e-5  # a fifth of what is demanded
BOX_TOLERANCE_PX = 1e-3
FILE = golden("trdimp_iou.npz")
RUNS = FILE.json("refine_runs_json")
RECORDED = [
    (run, int(name.removeprefix(f"{run}_iter").removesuffix("_boxes")))
    for run in RUNS
    for name in FILE.arrays
    if name.startswith(f"{run}_iter") and name.endswith("_boxes")
]

packings = pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])


def recorded(name: str) -> Tensor:
    return torch.from_numpy(FILE[name])


@cache
def features() -> Features:
    images = torch.from_numpy(helper("trdimp_inputs").network_input(seed_of("trdimp")))
    with torch.inference_mode():
        found = golden_network().feature_extractor(images)
    return Features(*(layer.clone() for layer in found))


@cache
def refinement(packed: bool) -> BoxRefinement:
    return BoxRefinement(deepcopy(golden_network().bb_regressor), packed=packed)


def settings(run: str, iterations: int) -> TrackingParameters:
    step = RUNS[run]["step"]
    return replace(
        BASE,
        box_refinement_space=RUNS[run]["space"],
        box_refinement_iter=iterations,
        box_refinement_step_length=tuple(step) if isinstance(step, list) else step,
        box_refinement_step_decay=RUNS[run]["decay"],
    )


@torch.no_grad()
def test_features() -> None:
    found = golden_network().bb_regressor.test_features(features())
    for name, whole, part in (
        ("c3_t", found.layer2, found.layer2[:, ::8, ::4, ::4]),
        ("c4_t", found.layer3, found.layer3[:, ::8, ::2, ::2]),
    ):
        assert relative_difference(part, FILE[f"{name}_sub"]) < FEATURE_TOLERANCE, name
        np.testing.assert_allclose(stats(whole.numpy()), FILE[f"{name}_stats"], rtol=1e-5)


@torch.no_grad()
def test_modulation() -> None:
    found = golden_network().bb_regressor.modulation(features(), recorded("target_box"))
    assert relative_difference(found.layer2, FILE["mod3"]) < TOLERANCE
    assert relative_difference(found.layer3, FILE["mod4"]) < TOLERANCE


@packings
@torch.inference_mode()
def test_modulation_as_tracked_with(packed: bool) -> None:
    found = refinement(packed).modulation(features(), recorded("target_box"))
    assert relative_difference(found.layer2, FILE["mod3"]) < TOLERANCE
    assert relative_difference(found.layer3, FILE["mod4"]) < TOLERANCE


def test_prediction_and_gradient_by_autograd() -> None:
    network = golden_network().bb_regressor
    with torch.no_grad():
        modulation = network.modulation(features(), recorded("target_box"))
        maps = network.test_features(features())
    proposals = recorded("proposals").requires_grad_()
    found = network.predict(modulation, maps, proposals)
    (gradient,) = torch.autograd.grad(found.sum(), proposals)
    assert relative_difference(found, FILE["iou_pred"]) < TOLERANCE
    assert relative_difference(gradient, FILE["iou_grad_xywh"]) < TOLERANCE


@packings
@torch.inference_mode()
def test_prediction_and_gradient_written_out(packed: bool) -> None:
    model = refinement(packed)
    modulation = model.modulation(features(), recorded("target_box"))
    maps = model.maps(modulation, features())
    found, gradient = model.overlap(maps, recorded("proposals")[0])
    assert relative_difference(found[None], FILE["iou_pred"]) < TOLERANCE
    assert relative_difference(gradient[None], FILE["iou_grad_xywh"]) < TOLERANCE


@packings
@pytest.mark.parametrize(("run", "iterations"), RECORDED)
@torch.inference_mode()
def test_refinement(run: str, iterations: int, packed: bool) -> None:
    model = refinement(packed)
    modulation = model.modulation(features(), recorded("target_box"))
    boxes, overlaps = model.refine(
        modulation, features(), recorded("refine_start"), settings(run, iterations)
    )
    name = f"{run}_iter{iterations}"
    np.testing.assert_allclose(boxes.numpy(), FILE[f"{name}_boxes"], rtol=0, atol=BOX_TOLERANCE_PX)
    assert relative_difference(overlaps, FILE[f"{name}_iou"]) < TOLERANCE
