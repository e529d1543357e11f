# SPDX-License-Identifier: Apache-2.0
"""bfloat16 in torch; on a processor that does not gain by it, computed by plain operators."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from tracker_ros import create_tracker
from tracker_ros.geometry import iou
from tracker_ros.models.layers import packed as layers
from tracker_ros.models.layers.packed import (
    InferenceConv,
    InferenceLinear,
    can_bfloat16,
    precisions,
)
from tracker_ros.models.one_stream.config import GRM_TINY, OSTRACK_TINY
from tracker_ros.models.one_stream.grm import GRMNetwork
from tracker_ros.models.one_stream.inference import GRMInference, OSTrackInference
from tracker_ros.models.one_stream.ostrack import OSTrackNetwork
from tracker_ros.models.one_stream.tracker import OneStreamTracker
from tracker_ros.synthetic.scene_video import synthetic_video

CPU = torch.device("cpu")
BOX = torch.tensor([[0.25, 0.25, 0.5, 0.5]])
OSTRACK_CE = dataclasses.replace(OSTRACK_TINY, ce_layers=(1, 2), ce_template_range="CTR_POINT")
MODELS = {
    "ostrack": (OSTrackNetwork, OSTrackInference, OSTRACK_TINY),
    "ostrack with elimination": (OSTrackNetwork, OSTrackInference, OSTRACK_CE),
    "grm": (GRMNetwork, GRMInference, GRM_TINY),
}
layouts = pytest.mark.parametrize(
    "packed",
    [
        False,
        pytest.param(
            True,
            marks=pytest.mark.skipif(not can_bfloat16(CPU), reason="needs AVX-512-BF16 or AMX"),
        ),
    ],
    ids=["plain", "packed"],
)


@pytest.fixture
def _anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow bfloat16 where a processor does not gain by it."""
    monkeypatch.setattr(layers, "can_bfloat16", lambda device: True)


@layouts
@pytest.mark.parametrize("bias", [False, True])
@torch.inference_mode()
def test_linear_layers_differ_by_rounding(packed: bool, bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 40, bias=bias)
    linear.weight[3] = 0.0
    layer = InferenceLinear(linear.weight, linear.bias, packed=packed, dtype=torch.bfloat16)
    for rows in (7, 3):
        tokens = torch.randn(2, rows, 96)
        error = (layer(tokens).float() - linear(tokens)).abs().max()
        assert 0.0 < error < 0.03


@pytest.mark.usefixtures("_anywhere")
@layouts
@pytest.mark.parametrize("kind", MODELS)
@torch.inference_mode()
def test_models_compute_in_it(kind: str, packed: bool) -> None:
    network_class, inference, config = MODELS[kind]
    torch.manual_seed(0)
    network = network_class(config).eval()
    exact = inference(copy.deepcopy(network), CPU)
    model = inference(network, CPU, packed, precision="bf16")
    assert model.runtime_info["precision"] == "bf16"
    assert exact.runtime_info["precision"] == "fp32"
    rounded = {
        name.rpartition(".")[2]
        for name, layer in model.network.named_modules()
        if isinstance(layer, (InferenceLinear, InferenceConv)) and layer.dtype == torch.bfloat16
    }
    assert {"fc1", "fc2", "proj"} <= rounded
    assert not any(name.startswith("conv5") for name in rounded)
    template = torch.randn(1, 3, config.template_size, config.template_size)
    search = torch.randn(2, 3, config.search_size, config.search_size)
    maps = [
        each.locate_batch([each.encode_template(template, BOX)] * 2, search)
        for each in (exact, model)
    ]
    for wanted, found in zip(*maps, strict=True):
        assert found.dtype == torch.float32
        assert 0.0 < (found - wanted).abs().median() < 0.02


@pytest.mark.usefixtures("_anywhere")
def test_boxes_of_the_embedded_model_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = create_tracker("ostrack_tiny", "cpu", backend="torch", precision="fp32")
    if not can_bfloat16(CPU):
        monkeypatch.setattr("tracker_ros.models.one_stream.inference.can_pack", lambda device: 0)
    tracker = create_tracker("ostrack_tiny", "cpu", backend="torch", precision="bf16")
    assert tracker.runtime_info["precision"] == "bf16"
    first, *frames = synthetic_video(0, frames=8)
    assert isinstance(tracker, OneStreamTracker)
    for each in (exact, tracker):
        each.initialize(first.image, first.box)
    overlaps = []
    for frame in frames:
        wanted = exact.track(frame.image).box
        overlaps.append(iou(tracker.track(frame.image).box, wanted))
        assert tracker.target is not None
        tracker.target = dataclasses.replace(tracker.target, box=wanted)
    assert 0.995 <= np.median(overlaps) < 1.0


def test_a_precision_that_the_processor_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert precisions(CPU) == ("fp32",)
    with pytest.raises(ValueError, match="'bf16' is not available on cpu; expected fp32"):
        OSTrackInference(OSTrackNetwork(OSTRACK_TINY).eval(), CPU, precision="bf16")
    with pytest.raises(ValueError, match="bf16.*not available.*ostrack_tiny"):
        create_tracker("ostrack_tiny", "cpu", backend="torch", precision="bf16")
    with pytest.raises(ValueError, match="int8.*not available.*ostrack_tiny"):
        create_tracker("ostrack_tiny", "cpu", backend="torch", precision="int8")


def test_gpus_have_none_of_it() -> None:
    assert precisions(torch.device("cuda", 0)) == ("fp32",)
