# SPDX-License-Identifier: Apache-2.0
"""The compiled kernel of RoI pooling against the matrix form, and which of them is taken."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tracker_ros.cuda import build, prroi_pool
from tracker_ros.cuda.prroi_pool import (
    MapPool,
    compiled_pool,
    fastest_prroi_pool,
    pool_boxes,
    pool_by_matrix,
)

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-11}
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def random_case(dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A map (9, 11, 4) and boxes (20, 4); some reach out of it."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randn(9, 11, 4, generator=generator, dtype=torch.float64)
    corners = torch.rand(20, 2, 2, generator=generator, dtype=torch.float64) * 16 - 3
    boxes = corners.sort(dim=1).values.flatten(1)
    boxes[3] = torch.tensor([1, 2, 5, 8])  # whole cells
    boxes[4] = torch.tensor([38, 38, 50, 48])  # outside
    boxes[5] = torch.tensor([4, 1, 4, 6])  # no width
    boxes[6] = torch.tensor([4, 6, 8, 1])  # reversed
    boxes[7] = torch.tensor([-12, -12, 60, 60])  # everything
    boxes[8] = torch.tensor([-2e-18, 1, -1e-18, 6])  # a width that rounding takes away
    return cells.to(dtype), boxes.to(dtype)


def compiled(device: torch.device = CPU) -> MapPool:
    pool = compiled_pool(device)
    assert pool is not None
    return pool


def check_against_matrix_form(cells: Tensor, boxes: Tensor, bins: int) -> None:
    """Values and gradients by the boxes, from both forms and from autograd."""
    leaf = boxes.detach().requires_grad_()
    by_autograd = pool_boxes(cells.permute(2, 0, 1)[None], leaf[None], bins, 1.0)[0]
    slope = torch.linspace(-1, 1, by_autograd.numel(), dtype=cells.dtype, device=cells.device)
    slope = slope.view(len(boxes), bins, bins, -1)
    (wanted,) = torch.autograd.grad(by_autograd, leaf, slope.permute(0, 3, 1, 2))
    for pool in (pool_by_matrix, compiled(cells.device)):
        pooled = pool(cells, boxes, bins)
        assert pooled.values.dtype == cells.dtype
        values = pooled.values.permute(0, 3, 1, 2)
        tolerance = TOLERANCE[cells.dtype]
        torch.testing.assert_close(values, by_autograd.detach(), rtol=0, atol=tolerance)
        torch.testing.assert_close(pooled.box_gradient(slope), wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("bins", [1, 3])
def test_equals_the_matrix_form(bins: int, dtype: torch.dtype) -> None:
    check_against_matrix_form(*random_case(dtype), bins)


def test_maps_of_any_memory_layout() -> None:
    cells, boxes = random_case(torch.float64)
    check = check_against_matrix_form
    planar = cells.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    wanted = compiled()(cells, boxes, 2)
    torch.testing.assert_close(compiled()(planar, boxes, 2).values, wanted.values, rtol=0, atol=0)
    check(cells, boxes.T.contiguous().T, 2)


def test_what_would_read_outside_the_map_gives_zeros() -> None:
    cells, _ = random_case(torch.float32)
    inf, nan = float("inf"), float("nan")
    odd = torch.tensor(
        [[1e30, 0, 2e30, 9], [-2e30, 0, -1e30, 9], [nan, 0, 40, 9], [inf, 0, inf, 9]]
    )
    pooled = compiled()(cells, odd, 3)
    assert not pooled.values.any()


def test_no_boxes_at_all() -> None:
    cells, boxes = random_case(torch.float32)
    pooled = compiled()(cells, boxes[:0], 3)
    assert pooled.values.shape == (0, 3, 3, 4)
    assert pooled.box_gradient(pooled.values).shape == (0, 4)


@pytest.fixture
def logged() -> Iterator[list[logging.LogRecord]]:
    """What the package logs; pytest's own fixture hears nothing once ROS has replaced loggers."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append
    loggers = [logging.getLogger(module.__name__) for module in (build, prroi_pool)]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    yield records
    for logger in loggers:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


def write_program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    "obstacle", ["no compiler", "failing compiler", "no cache", "no library", "no home"]
)
def test_what_cannot_be_built_is_told_once(
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
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr("os.path.expanduser", lambda path: path)
    else:
        monkeypatch.setenv("PATH", str(programs))
    assert [compiled_pool(CPU) for _ in range(3)] == [None] * 3
    assert [record.levelno for record in logged] == [logging.WARNING]
    assert reason in logged[0].getMessage()
    if obstacle in ("no compiler", "no cache", "no home"):  # the same for every file of kernels
        assert build.kernels("another", CPU) is None
        assert len(logged) == 1


MAPS = [(6, 6, 8, 3)]


@pytest.mark.parametrize("fastest", ["matrix", "kernel"])
def test_the_faster_form_is_taken_on_a_gpu(
    fastest: str, monkeypatch: pytest.MonkeyPatch, logged: list[logging.LogRecord]
) -> None:
    kernel = compiled()
    monkeypatch.setattr(prroi_pool, "compiled_pool", lambda device: kernel)
    asked = []

    def seconds(pool: MapPool, device: torch.device, maps: object, boxes: int) -> float:
        asked.append((maps, boxes))
        return 1.0 if (pool is kernel) == (fastest == "kernel") else 2.0

    monkeypatch.setattr(prroi_pool, "_seconds", seconds)
    found = fastest_prroi_pool(GPU, MAPS, 10)
    assert found is (kernel if fastest == "kernel" else pool_by_matrix)
    assert asked == [(MAPS, 10)] * 2
    assert [record.levelno for record in logged] == [logging.INFO]


def test_a_kernel_that_cannot_be_compiled_leaves_the_matrix_form(
    nothing_built: Path, monkeypatch: pytest.MonkeyPatch, logged: list[logging.LogRecord]
) -> None:
    def refuse(*given: object) -> None:
        raise build.BuildError("out of registers")

    monkeypatch.setattr(build, "CudaLibrary", refuse)
    assert fastest_prroi_pool(GPU, MAPS, 10) is pool_by_matrix
    assert [record.levelno for record in logged] == [logging.WARNING]


@pytest.mark.parametrize("error", [0.0, 0.1])
def test_a_kernel_that_fails_or_computes_something_else_leaves_the_matrix_form(
    error: float, monkeypatch: pytest.MonkeyPatch, logged: list[logging.LogRecord]
) -> None:
    """Both forms run on a CPU, which is waited for as a GPU is."""
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: tensor)

    def wrong(cells: Tensor, boxes: Tensor, bins: int) -> prroi_pool.Pooled:
        if not error:
            raise RuntimeError("an illegal memory access was encountered")
        return pool_by_matrix(cells + error, boxes, bins)

    monkeypatch.setattr(prroi_pool, "compiled_pool", lambda device: wrong)
    assert fastest_prroi_pool(GPU, MAPS, 10) is pool_by_matrix
    assert [record.levelno for record in logged] == [logging.WARNING]


def test_a_cpu_has_the_matrix_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prroi_pool, "_seconds", None)
    assert fastest_prroi_pool(CPU, MAPS, 10) is pool_by_matrix


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_equals_the_matrix_form_on_a_gpu(dtype: torch.dtype) -> None:
    cells, boxes = random_case(dtype)
    check_against_matrix_form(cells.to(GPU), boxes.to(GPU), 3)
    assert fastest_prroi_pool(GPU, MAPS, 10) is not None
