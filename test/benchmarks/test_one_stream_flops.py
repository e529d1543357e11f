# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from benchmarks.one_stream_cpu import CONFIGS, MatrixRate
from benchmarks.one_stream_flops import Product, counted_gflop, official_gflop, official_products
from tracker_ros.models.ostrack.config import OSTRACK_CONFIGS, OSTRACK_TINY, OSTrackConfig
from tracker_ros.models.ostrack.inference import OSTrackInference
from tracker_ros.models.ostrack.network import OSTrackNetwork

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


def test_counted_operations_are_the_official_ones_less_what_is_saved() -> None:
    model = OSTrackInference(OSTrackNetwork(SMALL), torch.device("cpu"), packed=False)
    encoded = model.encode_template(torch.randn(1, 3, 32, 32), torch.zeros(1, 4))
    found = counted_gflop(model, encoded, torch.randn(1, 3, 64, 64))
    embedding = Product(16, 3 * 64, 48).gflop
    last_block = Product(16, 48, (1 + 1 + 4 + 4) * 48).gflop + 2 * Product(16, 48, 80).gflop
    assert found == pytest.approx(official_gflop(SMALL) - embedding - last_block, rel=1e-9)


def test_products_follow_the_eliminations() -> None:
    rows = [p.rows for p in official_products(OSTRACK_CONFIGS["ostrack_vitb_256_ce"])]
    assert rows[11:15] == [320, 320, 320, 244]
    assert rows[-1] == 153


def test_rate_is_work_over_time() -> None:
    rate = MatrixRate(SMALL, packed=False)
    for product, run in rate.runs.items():
        assert run().shape == (product.rows, product.columns)
        rate.best[product] = 0.5 * product.gflop
    assert rate.gflop_per_second == pytest.approx(2.0)
