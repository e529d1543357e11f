# SPDX-License-Identifier: Apache-2.0
"""One training step of the official network: outputs, losses, gradients, running statistics."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from golden_files import OSTRACK_TRAINED, Golden, golden, network_inputs
from ostrack_golden_network import difference, golden_network
from torch import Tensor

from tracker_ros.models.ostrack.network import OSTrackNetwork
from tracker_ros.training.keep_rate import keep_rate_at
from tracker_ros.training.losses import LossTerms, TrackingLoss

MAP_TOLERANCE = 1e-5
LOSS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4
NORM_TOLERANCE = 1e-3
LEAST_NORM = 1e-4

TERMS = {
    "Loss/total": "total",
    "Loss/giou": "giou",
    "Loss/l1": "l1",
    "Loss/location": "focal",
    "IoU": "mean_iou",
}

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:TF32 acceleration")]


@dataclass(frozen=True)
class Step:
    """A training step and what it is compared with."""

    golden: Golden
    network: OSTrackNetwork
    output: dict[str, Tensor]
    losses: LossTerms


@pytest.fixture(scope="module")
def step() -> Step:
    g = golden(f"{OSTRACK_TRAINED}_train.npz")
    network = copy.deepcopy(golden_network(OSTRACK_TRAINED)).train()
    batch = len(g["gt_boxes_xywh"])
    template, search = (
        torch.from_numpy(t) for t in network_inputs(OSTRACK_TRAINED, g.meta["seed"], batch)
    )
    mask = network.template_mask(torch.from_numpy(g["template_boxes_xywh"]))
    keep_rate = keep_rate_at(g.meta["epoch"])
    assert keep_rate == pytest.approx(g.meta["ce_keep_rate"], rel=1e-9)
    # Batch statistics of random weights magnify rounding. oneDNN's convolutions sum 6912 products
    # in one chain, which alone took 7e-6 of the 1e-5 (2e-6 through the BLAS, against float64).
    with torch.backends.mkldnn.flags(enabled=False, allow_tf32=False):
        output = network(template, search, mask, keep_rate)
        losses = TrackingLoss()(output, torch.from_numpy(g["gt_boxes_xywh"]))
        losses.total.backward()
    return Step(g, network, output, losses)


def test_outputs(step: Step) -> None:
    for key, value in step.output.items():
        assert difference(value, step.golden[key]) <= MAP_TOLERANCE, key


def test_loss_terms(step: Step) -> None:
    order = step.golden.meta["loss_terms_order"]
    found = [getattr(step.losses, TERMS[name]).item() for name in order]
    np.testing.assert_allclose(found, step.golden["loss_terms"], rtol=LOSS_TOLERANCE)


def test_gradients(step: Step) -> None:
    names = [name for name in step.golden.arrays if name.startswith("grad/")]
    assert names
    parameters = dict(step.network.named_parameters())
    for name in names:
        gradient = parameters[name.removeprefix("grad/")].grad
        assert gradient is not None, name
        found = gradient.flatten()[:: max(1, gradient.numel() // 500)]
        bound = GRADIENT_TOLERANCE * float(np.abs(step.golden[name]).max())
        assert difference(found, step.golden[name]) <= bound, name


def test_gradient_norms(step: Step) -> None:
    wanted = step.golden.meta["grad_norms"]
    found = {
        name: parameter.grad.norm().item()
        for name, parameter in step.network.named_parameters()
        if parameter.grad is not None
    }
    assert set(found) == set(wanted)
    for name, norm in wanted.items():
        if norm > LEAST_NORM:
            assert found[name] == pytest.approx(norm, rel=NORM_TOLERANCE), name


def test_unused_parameters_get_no_gradient(step: Step) -> None:
    without = [name for name, p in step.network.named_parameters() if p.grad is None]
    assert sorted(without) == sorted(step.golden.meta["params_without_grad"])


def test_running_statistics(step: Step) -> None:
    names = [name for name in step.golden.arrays if name.startswith("after/")]
    assert names
    state = step.network.state_dict()
    for name in names:
        found = state[name.removeprefix("after/")]
        assert difference(found, step.golden[name]) <= MAP_TOLERANCE, name
