# SPDX-License-Identifier: Apache-2.0
"""PrRoIPool, as matrix products and as a kernel, against recorded outputs and gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from golden_files import golden

from tracker_ros.cuda.prroi_pool import compiled_pool, pool_boxes, pool_by_matrix

GOLDEN = golden("ops_prroi.npz")
CASES = [f"p{size}_s{stride}" for size in (1, 3, 4, 5) for stride in (8, 16)]
OUTPUT_TOLERANCE = {torch.float32: 5e-5, torch.float64: 1e-5}
BOX_TOLERANCE = {torch.float32: 5e-4, torch.float64: 1e-5}

both_types = pytest.mark.parametrize("dtype", OUTPUT_TOLERANCE, ids=str)
every_case = pytest.mark.parametrize("case", CASES)


def given(name: str, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(GOLDEN[name]).to(dtype)


def numbers(case: str) -> tuple[int, int]:
    size, stride = (int(part[1:]) for part in case.split("_"))
    return size, stride


def check(found: torch.Tensor, name: str, tolerance: float) -> None:
    np.testing.assert_allclose(found, GOLDEN[name], rtol=0, atol=tolerance, err_msg=name)


@both_types
@every_case
def test_pooled_maps_and_gradients(case: str, dtype: torch.dtype) -> None:
    size, stride = numbers(case)
    features, rois = (given(name, dtype).requires_grad_() for name in ("features", "rois"))
    images = features[rois[:, 0].long()]
    pooled = pool_boxes(images, rois[:, None, 1:], size, 1 / stride)[:, 0]
    pooled.backward(given(f"{case}_grad_out", dtype))
    assert features.grad is not None
    assert rois.grad is not None
    check(pooled.detach(), f"{case}_out", OUTPUT_TOLERANCE[dtype])
    check(features.grad, f"{case}_grad_features", OUTPUT_TOLERANCE[dtype])
    check(rois.grad[:, 1:], f"{case}_grad_boxes", BOX_TOLERANCE[dtype])


@both_types
@every_case
@pytest.mark.parametrize("form", ["matrix", "kernel"])
def test_maps_with_channels_innermost(
    form: str,
    case: str,
    dtype: torch.dtype,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(built_in(tmp_path_factory)))
    pool = compiled_pool(torch.device("cpu")) if form == "kernel" else pool_by_matrix
    assert pool is not None
    size, stride = numbers(case)
    features, rois = given("features", dtype), given("rois", dtype)
    grad_out = given(f"{case}_grad_out", dtype).permute(0, 2, 3, 1)
    values, gradients = torch.empty_like(grad_out), torch.empty_like(rois[:, 1:])
    for image, cells in enumerate(features.permute(0, 2, 3, 1).contiguous()):
        there = rois[:, 0] == image
        pooled = pool(cells, rois[there, 1:] / stride, size)
        values[there] = pooled.values
        gradients[there] = pooled.box_gradient(grad_out[there].contiguous()) / stride
    check(values.permute(0, 3, 1, 2), f"{case}_out", OUTPUT_TOLERANCE[dtype])
    check(gradients, f"{case}_grad_boxes", BOX_TOLERANCE[dtype])


def built_in(folders: pytest.TempPathFactory) -> Path:
    """A cache of kernels for this run of the tests."""
    return folders.getbasetemp() / "kernels"
