# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from tracker_ros import create_tracker
from tracker_ros.geometry import iou
from tracker_ros.models.layers import packed as reduced_precision
from tracker_ros.models.layers.packed import Layers, precisions
from tracker_ros.models.one_stream.config import GRM_TINY, OSTRACK_TINY
from tracker_ros.models.one_stream.fast_cpu import OSTrackInference
from tracker_ros.models.one_stream.grm import GRMNetwork
from tracker_ros.models.one_stream.grm_fast_cpu import GRMInference
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
reduced = pytest.mark.parametrize(
    "precision",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                name not in precisions(CPU), reason=f"needs a processor with {name}"
            ),
        )
        for name in ("bf16", "int8")
    ],
)


@reduced
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@torch.inference_mode()
def test_linear_layers_differ_by_rounding(precision: str, gelu: bool, bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 40, bias=bias)
    linear.weight[3] = 0.0
    layer = Layers.on(CPU, precision).linear(linear.weight, linear.bias, gelu=gelu)
    for rows in (7, 3):
        tokens = torch.randn(2, rows, 96)
        wanted = nn.functional.gelu(linear(tokens)) if gelu else linear(tokens)
        error = (layer(tokens).float() - wanted).abs().max()
        assert 0.0 < error < 0.03


@reduced
@torch.inference_mode()
def test_attention_differs_by_rounding(precision: str) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, 20, 16).unbind(0)
    wanted = nn.functional.scaled_dot_product_attention(query, key, value)
    found = Layers.on(CPU, precision).attend(query, key, value)
    torch.testing.assert_close(found.float(), wanted, rtol=0, atol=0.03)


@reduced
@pytest.mark.parametrize("kind", MODELS)
@torch.inference_mode()
def test_models_compute_in_it(kind: str, precision: str) -> None:
    network_class, inference, config = MODELS[kind]
    torch.manual_seed(0)
    network = network_class(config).eval()
    exact = inference(copy.deepcopy(network), CPU)
    model = inference(network, CPU, precision=precision)
    assert model.runtime_info["precision"] == precision
    assert exact.runtime_info["precision"] == "fp32"
    template = torch.randn(1, 3, config.template_size, config.template_size)
    search = torch.randn(2, 3, config.search_size, config.search_size)
    maps = [
        each.locate_batch([each.encode_template(template, BOX)] * 2, search)
        for each in (exact, model)
    ]
    for wanted, found in zip(*maps, strict=True):
        assert found.dtype == torch.float32
        assert 0.0 < (found - wanted).abs().median() < 0.02


@reduced
def test_boxes_of_the_embedded_model_stay_where_they_are(precision: str) -> None:
    exact = create_tracker("ostrack_tiny", "cpu", backend="torch", precision="fp32")
    tracker = create_tracker("ostrack_tiny", "cpu", backend="torch", precision=precision)
    assert tracker.runtime_info["precision"] == precision
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
    assert np.median(overlaps) >= 0.995


def test_a_precision_that_the_processor_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert precisions(CPU) == ("fp32",)
    with pytest.raises(ValueError, match="'bf16' is not available on cpu; expected fp32"):
        Layers.on(CPU, "bf16")
    with pytest.raises(ValueError, match="bf16.*not available.*ostrack_tiny"):
        create_tracker("ostrack_tiny", "cpu", backend="torch", precision="bf16")
    monkeypatch.delattr(torch.cpu, "_is_vnni_supported")
    assert not reduced_precision.can_int8(CPU)


def test_gpus_have_none_of_it() -> None:
    assert precisions(torch.device("cuda", 0)) == ("fp32",)
