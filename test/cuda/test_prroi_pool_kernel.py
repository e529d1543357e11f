# SPDX-License-Identifier: Apache-2.0
"""The compiled kernels of RoI pooling against the matrix form; golden data: test/parity."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tracker_ros.cuda import library
from tracker_ros.cuda.prroi_pool import prroi_pool
from tracker_ros.cuda.prroi_pool_kernel import prroi_pool_kernel

OPERATORS = torch.ops.tracker_ros
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-11}


def random_case(dtype: torch.dtype, seed: int = 0, images: int = 3) -> tuple[Tensor, Tensor]:
    """Features (N, 4, 9, 11) and RoIs (20, 5) for a stride of 8; some reach out of the map."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(images, 4, 9, 11, generator=generator, dtype=torch.float64)
    corners = torch.rand(20, 2, 2, generator=generator, dtype=torch.float64) * 130 - 25
    corners = corners.sort(dim=1).values.flatten(1)
    corners[3] = torch.tensor([8, 16, 40, 64])  # whole pixels
    corners[4] = torch.tensor([300, 300, 400, 380])  # outside
    corners[5] = torch.tensor([30, 10, 30, 50])  # no width
    corners[6] = torch.tensor([30, 50, 60, 10])  # reversed
    corners[7] = torch.tensor([-100, -100, 500, 500])  # everything
    corners[8] = torch.tensor([-2e-18, 10, -1e-18, 50])  # a width that rounding takes away
    index = torch.randint(images, (20, 1), generator=generator)
    if images == 1:
        index += 7  # not to be read
    return features.to(dtype), torch.cat([index, corners], 1).to(dtype)


def check_against_matrix_form(features: Tensor, rois: Tensor, size: tuple[int, int]) -> None:
    """Outputs and both gradients."""
    results = []
    for pool in (prroi_pool, prroi_pool_kernel):
        inputs = features.detach().requires_grad_(), rois.detach().requires_grad_()
        pooled = pool(*inputs, size, 1 / 8)
        upstream = torch.linspace(-1, 1, pooled.numel(), dtype=pooled.dtype).to(pooled.device)
        results.append((pooled, *torch.autograd.grad(pooled, inputs, upstream.view_as(pooled))))
    for wanted, found in zip(*results, strict=True):
        assert found.dtype == wanted.dtype
        torch.testing.assert_close(found, wanted, rtol=0, atol=TOLERANCE[wanted.dtype])


@pytest.fixture(params=["compiled", "fallback"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run with the compiled kernels, then as where there is no compiler."""
    cpu = torch.device("cpu")
    if request.param == "compiled":
        assert library.kernels("prroi_pool", cpu) is not None
    else:
        monkeypatch.setitem(library._found, ("prroi_pool", cpu), None)
    return request.param


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("size", [(1, 1), (3, 5)])
@pytest.mark.parametrize("images", [1, 3])
def test_equals_the_matrix_form(
    form: str, images: int, size: tuple[int, int], dtype: torch.dtype
) -> None:
    check_against_matrix_form(*random_case(dtype, images=images), size)


def test_features_of_any_memory_layout(form: str) -> None:
    features, rois = random_case(torch.float64)
    check_against_matrix_form(features.to(memory_format=torch.channels_last), rois, (2, 3))
    check_against_matrix_form(features, rois.T.contiguous().T, (2, 3))


def test_half_precision_is_computed_in_float32(form: str) -> None:
    features, rois = random_case(torch.float32)
    found = prroi_pool_kernel(features.half(), rois, 3, 1 / 8)
    wanted = prroi_pool(features.half().float(), rois, 3, 1 / 8)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), wanted, rtol=1e-3, atol=1e-4)


def test_gradcheck(form: str) -> None:
    features, rois = random_case(torch.float64, seed=1)
    # Only boxes whose edges are not on whole pixels: the second derivative jumps there.
    features, rois = features[:, :2, :5, :5].contiguous(), rois[9:15]
    boxes = rois[:, 1:].detach().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda maps, corners: prroi_pool_kernel(
            maps, torch.cat([rois[:, :1], corners], 1), (2, 3), 1 / 8
        ),
        (features.requires_grad_(), boxes),
    )


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_opcheck(form: str, dtype: torch.dtype) -> None:
    features, rois = random_case(dtype)
    grad = torch.randn(20, 4, 2, 3, dtype=dtype)
    checks = torch.library.opcheck
    checks(OPERATORS.prroi_pool, (features.requires_grad_(), rois.requires_grad_(), 2, 3, 0.125))
    features, rois = features.detach(), rois.detach()
    checks(OPERATORS.prroi_pool_grad_features, (grad, features, rois, 0.125))
    checks(OPERATORS.prroi_pool_grad_boxes, (grad, features, rois, 0.125))


def test_what_would_read_outside_the_arrays_gives_zeros() -> None:
    features, rois = random_case(torch.float32)
    inf, nan = float("inf"), float("nan")
    odd = rois[:1].repeat(8, 1)
    odd[:4, 0] = torch.tensor([-1.0, 3.0, 1e30, nan])
    odd[4:, 1:] = torch.tensor(
        [[1e30, 0, 2e30, 9], [-2e30, 0, -1e30, 9], [nan, 0, 40, 9], [inf, 0, inf, 9]]
    )
    features.requires_grad_()
    pooled = prroi_pool_kernel(features, odd, 3, 1 / 8)
    pooled.sum().backward()
    assert not pooled.any()
    assert features.grad is not None and not features.grad.any()


def test_no_rois_at_all(form: str) -> None:
    features, rois = random_case(torch.float32)
    features.requires_grad_()
    pooled = prroi_pool_kernel(features, rois[:0].requires_grad_(), 3, 1 / 8)
    assert pooled.shape == (0, 4, 3, 3)
    pooled.sum().backward()
    assert features.grad is not None and not features.grad.any()


def test_arguments_are_checked_before_memory_is_read() -> None:
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        prroi_pool_kernel(torch.zeros(1, 2, 5, 6), torch.zeros(3, 4), 3, 1.0)


@pytest.fixture
def logged() -> Iterator[list[logging.LogRecord]]:
    """What the package logs; pytest's own fixture hears nothing once ROS has replaced loggers."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger(library.__name__)
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


def write_program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    "obstacle", ["no compiler", "failing compiler", "no cache", "no library", "no home"]
)
def test_what_cannot_be_built_falls_back_with_one_line(
    obstacle: str,
    nothing_built: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    logged: list[logging.LogRecord],
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    compiler = programs / "g++"
    reason = {
        "no compiler": "no g++ on PATH",
        "failing compiler": "exited with 1: error: out of registers",
        "no cache": "cannot be used",
        "no library": "cannot be loaded",
        "no home": "set HOME or XDG_CACHE_HOME",
    }[obstacle]
    # Asked for its version by one argument, they answer nothing.
    if obstacle == "failing compiler":
        write_program(compiler, "[ $# = 1 ] || { echo error: out of registers >&2; exit 1; }")
    if obstacle == "no library":
        write_program(compiler, 'for out; do :; done; [ $# = 1 ] || echo nonsense > "$out"')
    if obstacle == "no cache":
        (tmp_path / "cache").write_text("a file where a folder should be")
    elif obstacle == "no home":

        def no_home() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", no_home)
    else:
        monkeypatch.setenv("PATH", str(programs))
    for seed in range(3):
        check_against_matrix_form(*random_case(torch.float64, seed), (3, 3))
    assert [record.levelno for record in logged] == [logging.WARNING]
    assert reason in logged[0].getMessage()
    if obstacle in ("no compiler", "no cache", "no home"):  # the same for every file of kernels
        assert library.kernels("another", torch.device("cpu")) is None
        assert len(logged) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_equals_the_matrix_form_on_a_gpu(dtype: torch.dtype) -> None:
    assert library.kernels("prroi_pool", torch.device("cuda", 0)) is not None
    features, rois = random_case(dtype)
    check_against_matrix_form(features.to("cuda:0"), rois.to("cuda:0"), (3, 5))
