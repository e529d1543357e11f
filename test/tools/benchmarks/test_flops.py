# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tools.benchmarks.flops import counted_gflop
from tracker_ros.cuda.local_attention import expected_offset, local_attention
from tracker_ros.models.layers.packed import InferenceConv
from tracker_ros.models.one_stream.config import OSTrackConfig
from tracker_ros.models.one_stream.inference import OSTrackInference
from tracker_ros.models.one_stream.ostrack import OSTrackNetwork

SMALL = OSTrackConfig(
    template_size=32,
    search_size=64,
    stride=8,
    embed_dim=48,
    depth=2,
    num_heads=3,
    head_channels=16,
)


@pytest.mark.parametrize("packed", [False, True])
def test_all_products_of_a_network_are_counted(packed: bool) -> None:
    model = OSTrackInference(OSTrackNetwork(SMALL), torch.device("cpu"), packed=packed)
    encoded = model.encode_template(torch.randn(1, 3, 32, 32), torch.zeros(1, 4))
    found = counted_gflop(lambda: model.locate(encoded, torch.randn(1, 3, 64, 64)))
    width, template, search = 48, 16, 64
    tokens = template + search
    embedding = search * 3 * 8 * 8 * width
    attention = 2 * tokens * tokens * width
    block = tokens * width * (3 + 1 + 4 + 4) * width + attention
    # The last block computes queries, their means and the MLP for the search tokens alone.
    saved = template * width * (1 + 1 + 4 + 4) * width + 2 * template * tokens * width
    channels = [width, 16, 8, 4, 2]
    branch = sum(search * 9 * a * b for a, b in zip(channels, channels[1:], strict=False))
    head = 3 * branch + search * 2 * (1 + 2 + 2)
    assert found == pytest.approx(2e-9 * (embedding + 2 * block - saved + head), rel=1e-9)


@torch.inference_mode()
def test_convolutions_of_onednn_are_counted() -> None:
    image = torch.randn(2, 4, 8, 8)
    layer = InferenceConv(torch.nn.Conv2d(4, 4, 3, padding=1), packed=True)
    assert counted_gflop(lambda: layer(image)) == pytest.approx(2e-9 * 2 * 64 * 4 * 4 * 9)


def test_operations_are_counted_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    class Operators:
        mkldnn = SimpleNamespace()

        def __getattr__(self, name: str) -> Any:
            return getattr(operators, name)

    operators = torch.ops
    monkeypatch.setattr(torch, "ops", Operators())
    left, right = torch.randn(2, 3), torch.randn(3, 4)
    assert counted_gflop(lambda: left @ right) == pytest.approx(2e-9 * 2 * 3 * 4)


def test_windows_are_counted() -> None:
    query, value = torch.randn(1, 4, 6, 5), torch.randn(1, 3, 6, 5)
    found = counted_gflop(lambda: local_attention(query, [query] * 2, [value] * 2, [None] * 2, 1))
    assert found == pytest.approx(2e-9 * 30 * 2 * 9 * (4 + 3))
    found = counted_gflop(lambda: expected_offset(query, query, 1, 2))
    assert found == pytest.approx(2e-9 * 30 * 9 * (4 + 2))
