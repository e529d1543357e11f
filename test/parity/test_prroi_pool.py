# SPDX-License-Identifier: Apache-2.0
"""PrRoIPool, as matrix products and as a kernel, against recorded outputs and gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_files import golden

from tracker_ros.cuda import library
from tracker_ros.cuda.prroi_pool import prroi_pool
from tracker_ros.cuda.prroi_pool_kernel import prroi_pool_kernel

GOLDEN = golden("ops_prroi.npz")
CASES = [f"p{size}_s{stride}" for size in (1, 3, 4, 5) for stride in (8, 16)]
OUTPUT_TOLERANCE = {torch.float32: 5e-5, torch.float64: 1e-5}
BOX_TOLERANCE = {torch.float32: 5e-4, torch.float64: 1e-5}


@pytest.fixture(params=[prroi_pool, prroi_pool_kernel], ids=["matrix", "kernel"])
def pool(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., torch.Tensor]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # for whatever is built from here on
    if request.param is prroi_pool_kernel:
        assert library.kernels("prroi_pool", torch.device("cpu")) is not None
    return request.param


@pytest.mark.parametrize("dtype", OUTPUT_TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_pooled_maps_and_gradients(
    pool: Callable[..., torch.Tensor], case: str, dtype: torch.dtype
) -> None:
    def given(name: str) -> torch.Tensor:
        return torch.from_numpy(GOLDEN[name]).to(dtype)

    size, stride = (int(part[1:]) for part in case.split("_"))
    features = given("features").requires_grad_()
    rois = given("rois").requires_grad_()
    pooled = pool(features, rois, size, 1 / stride)
    pooled.backward(given(f"{case}_grad_out"))
    assert features.grad is not None
    assert rois.grad is not None
    assert not rois.grad[:, 0].any()
    for found, name, tolerance in (
        (pooled.detach(), "out", OUTPUT_TOLERANCE),
        (features.grad, "grad_features", OUTPUT_TOLERANCE),
        (rois.grad[:, 1:], "grad_boxes", BOX_TOLERANCE),
    ):
        wanted = GOLDEN[f"{case}_{name}"]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance[dtype], err_msg=name)
