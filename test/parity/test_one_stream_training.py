# SPDX-License-Identifier: Apache-2.0
"""A training step of the official networks: outputs, losses, gradients, running statistics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from golden_files import ONE_STREAM_TRAINED, Golden, golden, network_inputs
from one_stream_golden_network import (
    backbone_outputs,
    difference,
    golden_state,
    new_golden_network,
)
from torch import Tensor

from tracker_ros.geometry import cxcywh_to_xyxy, xywh_to_xyxy
from tracker_ros.models.one_stream.grm import Division, GRMNetwork
from tracker_ros.models.one_stream.ostrack import OSTrackNetwork
from tracker_ros.training.losses import (
    FOCAL_WEIGHT,
    GIOU_WEIGHT,
    L1_WEIGHT,
    center_heatmap,
    focal_loss,
    giou_loss,
)
from tracker_ros.training.tasks.pair import keep_rate_at

MAP_TOLERANCE = 1e-5
LOSS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4
NORM_TOLERANCE = 1e-3
MIN_NORM = 1e-4

LOG_PROB_TOLERANCE = 2e-5

# Official name, after its prefix -> ours, where they differ.
TERMS = {"location": "focal", "loc": "focal", "IoU": "mean_iou"}

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:TF32 acceleration")]


@dataclass(frozen=True)
class Step:
    """A training step and what it is compared with."""

    golden: Golden
    network: OSTrackNetwork | GRMNetwork
    output: dict[str, Tensor]
    losses: dict[str, Tensor]
    divisions: list[Division] | None


def trained(name: str) -> Golden:
    return golden(f"{name}_train.npz")


def official_losses(output: dict[str, Tensor], given: Tensor) -> dict[str, Tensor]:
    """Put the terms together as the official training does, at the predicted peak."""
    target = xywh_to_xyxy(given).clamp(0.0, 1.0)
    predicted = cxcywh_to_xyxy(output["pred_boxes"]).flatten(0, 1)
    giou, iou = giou_loss(predicted, target)
    l1 = torch.nn.functional.l1_loss(predicted, target)
    score = output["score_map"]
    focal = focal_loss(score, center_heatmap(given, score.shape[-1]).unsqueeze(1))
    total = GIOU_WEIGHT * giou + L1_WEIGHT * l1 + FOCAL_WEIGHT * focal
    return {"total": total, "giou": giou, "l1": l1, "focal": focal, "mean_iou": iou.mean()}


@pytest.fixture(scope="module", params=ONE_STREAM_TRAINED)
def step(request: pytest.FixtureRequest) -> Step:
    name = request.param
    g, divisions = trained(name), None
    network = new_golden_network(name).train()
    golden_state.cache_clear()  # whose memory the network changes
    boxes, given = torch.from_numpy(g["template_boxes_xywh"]), g["gt_boxes_xywh"]
    template, search = (
        torch.from_numpy(t) for t in network_inputs(name, g.meta["seed"], len(given))
    )
    # Batch statistics of random weights magnify rounding. oneDNN's convolutions sum 6912 products
    # in one chain, which alone took 7e-6 of the 1e-5 (2e-6 through the BLAS, against float64).
    with torch.backends.mkldnn.flags(enabled=False, allow_tf32=False):
        if isinstance(network, GRMNetwork):
            noise = torch.from_numpy(g["gumbel_noise"])
            with backbone_outputs(network) as outputs:
                output = network(template, search, boxes, noise=noise)
            ((_, divisions),) = outputs
        else:
            keep_rate = keep_rate_at(g.meta["epoch"])
            assert keep_rate == pytest.approx(g.meta["ce_keep_rate"], rel=1e-9)
            output = network(template, search, network.template_mask(boxes), keep_rate)
        losses = official_losses(output, torch.from_numpy(given))
        losses["total"].backward()
    return Step(g, network, output, losses, divisions)


def test_outputs(step: Step) -> None:
    for key, value in step.output.items():
        assert difference(value, step.golden[key]) <= MAP_TOLERANCE, key


def test_loss_terms(step: Step) -> None:
    order = step.golden.meta["loss_terms_order"]
    names = [name.rsplit("/", 1)[-1] for name in order]
    found = [step.losses[TERMS.get(name, name)].item() for name in names]
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
        if norm > MIN_NORM:
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


@torch.no_grad()
def test_divisions(step: Step) -> None:
    g, divisions = step.golden, step.divisions
    assert (divisions is None) == ("gumbel_noise" not in g)
    if divisions is None:
        return
    log_prob = torch.stack([d.log_prob for d in divisions], dim=1)
    second = torch.stack([d.category[..., 1] for d in divisions], dim=1)
    assert difference(log_prob, g["log_prob"]) <= LOG_PROB_TOLERANCE
    noisy = g["log_prob"] + g["gumbel_noise"]
    clear = np.abs(noisy[..., 0] - noisy[..., 1]) > LOG_PROB_TOLERANCE
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(second.round().numpy()[clear], g["decision_hard"][clear])
    fraction = second.mean(dim=2).numpy()
    np.testing.assert_allclose(fraction, g["decisions_fraction"], atol=(~clear).mean() + 1e-6)
