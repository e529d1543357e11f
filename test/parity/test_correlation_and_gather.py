# SPDX-License-Identifier: Apache-2.0
"""Spatial correlation and deformable gather, the parts of MAST's attention, against records.

Compiled, both exist only as parts of the fused operators: the correlation under the softmax of
`expected_offset`, the gather as the windows that `local_attention` averages. In plain torch they
are functions of their own, and the source of gradients.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_files import golden

from tracker_ros.cuda import build
from tracker_ros.cuda.local_attention import expected_offset, local_attention
from tracker_ros.cuda.local_attention_reference import (
    correlate_padded,
    sample_bilinear,
    window_positions,
)

CORRELATION = golden("ops_correlation.npz")
GATHER = golden("ops_deform.npz")
CASES = [name.removesuffix("_out") for name in CORRELATION.arrays if name.endswith("_out")]
WINDOWS = sorted({int(re.findall(r"\d+", name)[0]) for name in GATHER.arrays if "_out" in name})
TOLERANCE = 2e-5
CPU = torch.device("cpu")


@pytest.fixture(params=["compiled", "fallback"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "compiled":
        assert build.kernels("local_attention", CPU) is not None
    else:
        monkeypatch.setitem(build._found, ("local_attention", CPU), None)


def numbers(case: str) -> tuple[int, int]:
    window, dilation = (int(number) for number in re.findall(r"\d+", case))
    return window, dilation


@pytest.mark.parametrize("case", CASES)
def test_correlation_and_its_gradients(case: str) -> None:
    window, dilation = numbers(case)
    maps = [torch.from_numpy(CORRELATION[name]).requires_grad_() for name in "ab"]
    bordered = F.pad(maps[1], [window // 2 * dilation] * 4)
    found = correlate_padded(maps[0], bordered, window, dilation)
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


@pytest.mark.parametrize("case", CASES)
def test_correlation_under_a_softmax(form: None, case: str) -> None:
    window, dilation = numbers(case)
    a, b = (torch.from_numpy(CORRELATION[name]) for name in "ab")
    found = expected_offset(a, b, window // 2, dilation)
    recorded = torch.from_numpy(CORRELATION[f"{case}_out"])
    step = -(-a.shape[-1] // recorded.shape[-1])
    weights = recorded.double().flatten(1, 2).softmax(1).view(recorded.shape)
    steps = dilation * torch.arange(-(window // 2), window // 2 + 1)
    dy, dx = torch.meshgrid(steps, steps, indexing="ij")
    wanted = torch.stack([(weights * d[..., None, None]).sum((1, 2)) for d in (dx, dy)], dim=-1)
    part = found[:, ::step, ::step]
    # Offsets reach as far as the window: what is recorded of the products decides them.
    limit = TOLERANCE * window * dilation
    np.testing.assert_allclose(part, wanted, rtol=0, atol=limit)


@pytest.mark.parametrize("half_pixel", [False, True], ids=["pixel", "half_pixel"])
@pytest.mark.parametrize("window", WINDOWS)
def test_gather(window: int, half_pixel: bool) -> None:
    maps, offset = (torch.from_numpy(GATHER[name]) for name in ("im", "offset_xy"))
    height, width = maps.shape[2:]
    positions = window_positions(
        offset, window // 2, 0, half_pixel=half_pixel, height=height, width=width
    )
    found = sample_bilinear(maps, *positions).movedim(-1, 1).reshape(1, -1, height * width)
    wanted = GATHER[f"k{window}_{'half_pixel' if half_pixel else 'pixel'}_out"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("window", WINDOWS)
def test_gather_of_equal_weights(form: None, window: int) -> None:
    maps, offset = (torch.from_numpy(GATHER[name]) for name in ("im", "offset_xy"))
    nothing = torch.zeros(1, 4, *maps.shape[2:])  # all scores are equal
    found = local_attention(nothing, [nothing], [maps], [offset], window // 2)
    recorded = GATHER[f"k{window}_pixel_out"].reshape(maps.shape[1], window**2, -1)
    np.testing.assert_allclose(found[0].flatten(1), recorded.mean(1), rtol=0, atol=TOLERANCE)
