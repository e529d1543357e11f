# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tools.benchmarks.flops import (
    Config,
    Product,
    counted_gflop,
    official_gflop,
    official_products,
)
from tracker_ros.cuda.local_attention import expected_offset, local_attention
from tracker_ros.models.layers.packed import InferenceConv
from tracker_ros.models.one_stream.config import (
    GRM_CONFIGS,
    OSTRACK_CONFIGS,
    OSTRACK_TINY,
    OSTrackConfig,
)
from tracker_ros.models.one_stream.inference import OSTrackInference
from tracker_ros.models.one_stream.ostrack import OSTrackNetwork

CONFIGS: dict[str, Config] = {**OSTRACK_CONFIGS, **GRM_CONFIGS}
SMALL = OSTrackConfig(
    template_size=32,
    search_size=64,
    stride=8,
    embed_dim=48,
    depth=2,
    num_heads=3,
    head_channels=16,
)


@pytest.mark.parametrize(
    ("name", "gflop"),
    [
        ("ostrack_vitb_256_ce", 45.3),
        ("ostrack_vitb_384_ce", 108.2),
        ("ostrack_vitb_256", 61.8),
        ("grm_vitb_256", 65.6),
    ],
)
def test_official_operations(name: str, gflop: float) -> None:
    assert official_gflop(CONFIGS[name]) == pytest.approx(gflop, abs=0.06)


def test_models_without_official_counterpart_are_refused() -> None:
    with pytest.raises(ValueError, match="'conv' has no official counterpart"):
        official_gflop(OSTRACK_TINY)


@pytest.mark.parametrize("packed", [False, True])
def test_counted_operations_are_the_official_ones_less_what_is_saved(packed: bool) -> None:
    model = OSTrackInference(OSTrackNetwork(SMALL), torch.device("cpu"), packed=packed)
    encoded = model.encode_template(torch.randn(1, 3, 32, 32), torch.zeros(1, 4))
    found = counted_gflop(lambda: model.locate(encoded, torch.randn(1, 3, 64, 64)))
    embedding = Product(16, 3 * 64, 48).gflop
    last_block = Product(16, 48, (1 + 1 + 4 + 4) * 48).gflop + 2 * Product(16, 48, 80).gflop
    assert found == pytest.approx(official_gflop(SMALL) - embedding - last_block, rel=1e-9)


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
    assert counted_gflop(lambda: left @ right) == pytest.approx(Product(2, 3, 4).gflop)


def test_windows_are_counted() -> None:
    query, value = torch.randn(1, 4, 6, 5), torch.randn(1, 3, 6, 5)
    found = counted_gflop(lambda: local_attention(query, [query] * 2, [value] * 2, [None] * 2, 1))
    assert found == pytest.approx(2e-9 * 30 * 2 * 9 * (4 + 3))
    found = counted_gflop(lambda: expected_offset(query, query, 1, 2))
    assert found == pytest.approx(2e-9 * 30 * 9 * (4 + 2))


def test_products_follow_the_eliminations() -> None:
    rows = [p.rows for p in official_products(OSTRACK_CONFIGS["ostrack_vitb_256_ce"])]
    assert rows[11:15] == [320, 320, 320, 244]
    assert rows[-1] == 153
