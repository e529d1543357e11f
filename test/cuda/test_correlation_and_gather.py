# SPDX-License-Identifier: Apache-2.0
"""Spatial correlation and deformable gather as operators; golden data: test/parity."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tracker_ros.cuda import library
from tracker_ros.cuda.deformable_gather import deformable_gather, deformable_gather_reference
from tracker_ros.cuda.spatial_correlation import spatial_correlation, spatial_correlation_reference

OPERATORS = torch.ops.tracker_ros


def maps(*size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*size, generator=generator, dtype=torch.float64)


@pytest.fixture(params=["compiled", "fallback"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run with the compiled kernels, then as where there is no compiler."""
    for name in ("spatial_correlation", "deformable_gather"):
        if request.param == "compiled":
            assert library.kernels(name, torch.device("cpu")) is not None
        else:
            monkeypatch.setitem(library._found, (name, torch.device("cpu")), None)
    return request.param


@pytest.mark.parametrize("size", [(1, 2, 3, 4), (2, 3, 5, 16), (1, 1, 4, 35)])
@pytest.mark.parametrize(("window", "dilation"), [(1, 1), (3, 1), (5, 2), (3, 7)])
def test_correlation_equals_plain_torch(
    form: str, size: tuple[int, ...], window: int, dilation: int
) -> None:
    results = []
    for function in (spatial_correlation, spatial_correlation_reference):
        pair = [maps(*size, seed=seed).requires_grad_() for seed in (0, 1)]
        out = function(*pair, window, dilation)
        upstream = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
        results.append((out, *torch.autograd.grad(out, pair, upstream)))
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("half_pixel", [False, True])
def test_gather_equals_plain_torch(form: str, half_pixel: bool) -> None:
    images, offset = maps(2, 3, 5, 7), maps(2, 5, 7, 2, seed=1) * 4
    offset[0, 0, 0] = torch.tensor([1e30, float("nan")])
    found = deformable_gather(images, offset, 3, half_pixel=half_pixel)
    offset[0, 0, 0] = 1e6  # outside as well
    wanted = deformable_gather_reference(images, offset, 3, half_pixel)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_gradcheck(form: str) -> None:
    pair = [maps(1, 2, 3, 4, seed=seed).requires_grad_() for seed in (0, 1)]
    assert torch.autograd.gradcheck(lambda a, b: spatial_correlation(a, b, 3, 2), pair)
    offset = maps(1, 3, 4, 2, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, o: deformable_gather(a, o, 3), (pair[0], offset))


def test_opcheck(form: str) -> None:
    first, second = (maps(1, 2, 3, 4, seed=seed).requires_grad_() for seed in (0, 1))
    offset, grad = maps(1, 3, 4, 2, seed=2).requires_grad_(), maps(1, 3, 3, 3, 4)
    torch.library.opcheck(OPERATORS.spatial_correlation, (first, second, 3, 1))
    torch.library.opcheck(OPERATORS.deformable_gather, (first, offset, 3, False))
    other = first.detach()
    torch.library.opcheck(OPERATORS.spatial_correlation_grad_first, (grad, other, 3, 1))
    torch.library.opcheck(OPERATORS.spatial_correlation_grad_second, (grad, other, 3, 1))


def test_arguments_are_checked_before_memory_is_read() -> None:
    first = maps(1, 2, 3, 4)
    with pytest.raises(ValueError, match=r"\(1, 2, 3, 5\); expected twice"):
        spatial_correlation(first, maps(1, 2, 3, 5), 3)
    with pytest.raises(ValueError, match="window is 4 and dilation 1"):
        spatial_correlation(first, first, 4)
    with pytest.raises(ValueError, match=r"offsets have shape \(1, 3, 3, 2\)"):
        deformable_gather(first, maps(1, 3, 3, 2), 3)


@pytest.mark.gpu
@pytest.mark.parametrize(("window", "dilation"), [(1, 1), (5, 2), (3, 7)])
def test_correlation_equals_plain_torch_on_a_gpu(window: int, dilation: int) -> None:
    assert library.kernels("spatial_correlation", torch.device("cuda", 0)) is not None
    results = []
    for function in (spatial_correlation, spatial_correlation_reference):
        pair = [maps(2, 3, 5, 35, seed=seed).to("cuda:0").requires_grad_() for seed in (0, 1)]
        out = function(*pair, window, dilation)
        upstream = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device="cuda:0")
        results.append((out, *torch.autograd.grad(out, pair, upstream.view_as(out))))
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


@pytest.mark.gpu
@pytest.mark.parametrize("half_pixel", [False, True])
def test_gather_equals_plain_torch_on_a_gpu(half_pixel: bool) -> None:
    assert library.kernels("deformable_gather", torch.device("cuda", 0)) is not None
    images, offset = maps(2, 3, 5, 7), maps(2, 5, 7, 2, seed=1) * 4
    offset[0, 0, 0] = torch.tensor([1e30, float("nan")])
    found = deformable_gather(images.to("cuda:0"), offset.to("cuda:0"), 3, half_pixel=half_pixel)
    offset[0, 0, 0] = 1e6  # outside as well
    wanted = deformable_gather_reference(images, offset, 3, half_pixel)
    torch.testing.assert_close(found.cpu(), wanted, rtol=0, atol=1e-10)
