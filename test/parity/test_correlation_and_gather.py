# SPDX-License-Identifier: Apache-2.0
"""Spatial correlation and deformable gather, compiled and in plain torch, against records."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from golden_files import golden

from tracker_ros.cuda import library
from tracker_ros.cuda.deformable_gather import deformable_gather
from tracker_ros.cuda.spatial_correlation import spatial_correlation

CORRELATION = golden("ops_correlation.npz")
GATHER = golden("ops_deform.npz")
CASES = [name.removesuffix("_out") for name in CORRELATION.arrays if name.endswith("_out")]
WINDOWS = sorted({int(re.findall(r"\d+", name)[0]) for name in GATHER.arrays if "_out" in name})
TOLERANCE = 2e-5


@pytest.fixture(params=["compiled", "fallback"], autouse=True)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("spatial_correlation", "deformable_gather"):
        if request.param == "compiled":
            assert library.kernels(name, torch.device("cpu")) is not None
        else:
            monkeypatch.setitem(library._found, (name, torch.device("cpu")), None)


@pytest.mark.parametrize("case", CASES)
def test_correlation_and_its_gradients(case: str) -> None:
    window, dilation = (int(number) for number in re.findall(r"\d+", case))
    maps = [torch.from_numpy(CORRELATION[name]).requires_grad_() for name in "ab"]
    found = spatial_correlation(*maps, window, dilation)
    upstream = torch.cos(0.37 * torch.arange(found.numel(), dtype=torch.float64))
    found.backward(upstream.view(found.shape).float())
    recorded = CORRELATION[f"{case}_out"]
    step = -(-found.shape[-1] // recorded.shape[-1])
    part = found.detach().numpy()[..., ::step, ::step]
    np.testing.assert_allclose(part, recorded, rtol=0, atol=TOLERANCE)
    whole = found.detach().double()
    sums = [whole.sum(), whole.square().sum()]
    np.testing.assert_allclose(sums, CORRELATION[f"{case}_out_sum"], rtol=1e-6, atol=1e-2)
    for tensor, name in zip(maps, "ab", strict=True):
        wanted = CORRELATION[f"{case}_grad_{name}"]
        np.testing.assert_allclose(tensor.grad, wanted, rtol=0, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("half_pixel", [False, True], ids=["pixel", "half_pixel"])
@pytest.mark.parametrize("window", WINDOWS)
def test_gather(window: int, half_pixel: bool) -> None:
    maps, offset = (torch.from_numpy(GATHER[name]) for name in ("im", "offset_xy"))
    found = deformable_gather(maps, offset, window, half_pixel=half_pixel)
    wanted = GATHER[f"k{window}_{'half_pixel' if half_pixel else 'pixel'}_out"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)
