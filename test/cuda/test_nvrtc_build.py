# SPDX-License-Identifier: Apache-2.0
"""Building for GPUs, which needs none, and starting a kernel on a stand-in for one."""

from __future__ import annotations

import ctypes
import re
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tracker_ros.cuda.build import KERNELS, BuildError, CppLibrary, CudaLibrary, Kernels, cubin
from tracker_ros.cuda.prroi_pool import pool_by_matrix

# Jetson Orin, RTX 40, H100, Jetson Thor, RTX 50.
ARCHITECTURES = ["sm_87", "sm_89", "sm_90", "sm_110", "sm_120"]
# Kernels by file, without the type of number.
ENTRIES = {
    path.stem: re.findall(r"^KERNEL\((\w+),", path.read_text(encoding="utf-8"), re.MULTILINE)
    for path in sorted(KERNELS.glob("*.cuh"))
    if path.stem != "kernel"
}
# In the ELF header: e_machine of NVIDIA GPUs, and where e_flags tell which of them.
CUDA_MACHINE, FLAG_OF_ARCHITECTURE = 190, 49


def test_kernels_are_found() -> None:
    assert ENTRIES["prroi_pool"] == ["prroi_pool", "prroi_pool_grad_boxes"]
    assert all(ENTRIES.values())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", ENTRIES)
def test_compiles_for_every_supported_gpu(name: str, architecture: str, tmp_path: Path) -> None:
    code = cubin(name, architecture, tmp_path / "kernels")
    assert code[:4] == b"\x7fELF"
    assert int.from_bytes(code[18:20], "little") == CUDA_MACHINE
    assert code[FLAG_OF_ARCHITECTURE] == int(architecture.removeprefix("sm_"))
    for kernel in ENTRIES[name]:
        assert f".text.{kernel}_float\0".encode() in code
        assert f".text.{kernel}_double\0".encode() not in code


@pytest.mark.parametrize("name", ENTRIES)
def test_compiles_in_double_precision_too(name: str, tmp_path: Path) -> None:
    code = cubin(name, ARCHITECTURES[0], tmp_path / "kernels", "double")
    for kernel in ENTRIES[name]:
        assert f".text.{kernel}_double\0".encode() in code


def test_a_cubin_is_compiled_once_and_again_when_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cuda.bindings import nvrtc

    compiled = []
    compile_program = nvrtc.nvrtcCompileProgram
    monkeypatch.setattr(
        nvrtc,
        "nvrtcCompileProgram",
        lambda *given: compiled.append(given[2][0]) or compile_program(*given),
    )
    folder = tmp_path / "kernels"
    code = cubin("prroi_pool", "sm_87", folder)
    assert cubin("prroi_pool", "sm_87", folder) == code
    assert compiled == [b"--gpu-architecture=sm_87"]
    (kept,) = folder.glob("*.cubin")
    kept.write_bytes(kept.read_bytes()[:1000])
    assert cubin("prroi_pool", "sm_87", folder) == code
    assert cubin("prroi_pool", "sm_120", folder) != code
    assert len(compiled) == 3


def test_nvrtc_s_complaint_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="sm_1.*invalid value for --gpu-architecture"):
        cubin("prroi_pool", "sm_1", tmp_path / "kernels")
    assert not list((tmp_path / "kernels").glob("*.cubin*[!k]"))


def test_without_nvrtc_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(BuildError, match="pip install cuda-bindings"):
        cubin("prroi_pool", "sm_87", tmp_path / "kernels")


SUCCESS = SimpleNamespace(value=0, name="CUDA_SUCCESS")


def parameter_types(name: str, kernel: str) -> list[Any]:
    """What a kernel takes after the number of indices, read from its source."""
    source = (KERNELS / f"{name}.cuh").read_text(encoding="utf-8")
    found = re.search(rf"^KERNEL\({kernel},\s*\(([^)]*)\)", source, re.MULTILINE)
    assert found is not None
    of_kind = {"double": ctypes.c_double, "int64": ctypes.c_int64}
    return [
        ctypes.c_void_p if "*" in parameter else of_kind[parameter.split()[0]]
        for parameter in found[1].split(",")
    ]


class Driver:
    """Stands in for the CUDA driver where there is no GPU: what is launched, the CPU computes."""

    __name__ = "cuda.bindings.driver"

    def __init__(self, folder: Path) -> None:
        self.status = SUCCESS
        self.cpu = CppLibrary("prroi_pool", folder)
        self.current: str | None = None
        self.launches: list[tuple[Any, ...]] = []

    def cuDeviceGet(self, index: int) -> tuple[Any, ...]:
        return SUCCESS, f"device {index}"

    def cuDevicePrimaryCtxRetain(self, device: str) -> tuple[Any, ...]:
        return SUCCESS, f"context of {device}"

    def cuCtxSetCurrent(self, context: str) -> tuple[Any, ...]:
        self.current = context
        return (SUCCESS,)

    def cuModuleLoadData(self, code: bytes) -> tuple[Any, ...]:
        assert self.current == "context of device 1"
        assert code[FLAG_OF_ARCHITECTURE] == 87
        return self.status, "module"

    def cuModuleGetFunction(self, module: str, symbol: bytes) -> tuple[Any, ...]:
        assert module == "module"
        return SUCCESS, symbol.decode()

    def cuLaunchKernel(self, symbol: str, *given: Any) -> tuple[Any, ...]:
        assert self.current == "context of device 1"
        *sizes, shared, stream, at, extra = given
        assert (shared, extra) == (0, 0)
        types = [ctypes.c_int64, *parameter_types("prroi_pool", symbol.rpartition("_")[0])]
        addresses = (ctypes.c_void_p * len(types)).from_address(at)
        values = [kind.from_address(a) for kind, a in zip(types, addresses, strict=True)]
        self.launches.append((symbol, sizes, stream))
        self.cpu.run(symbol, values)
        return (self.status,)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Driver:
    """Put the stand-in where the GPU's library looks for the driver; its GPU 1 is an Orin."""
    import cuda.bindings

    stand_in = Driver(tmp_path / "kernels")
    monkeypatch.setattr(cuda.bindings, "driver", stand_in, raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 7))
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(
        torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=77)
    )
    return stand_in


def pool_on_gpu(folder: Path, count: int | None = None) -> torch.Tensor:
    """Start one kernel of float64 on GPU 1, for `count` indices or as many as there are."""
    cells, boxes = pooling_inputs()
    pooled = cells.new_empty(2, 4, 4, 3)
    run = Kernels(CudaLibrary("prroi_pool", folder, torch.device("cuda", 1)))
    count = pooled.numel() if count is None else count
    run("prroi_pool", count, pooled, cells, boxes, *cells.shape, 4)
    return pooled


def pooling_inputs() -> tuple[torch.Tensor, torch.Tensor]:
    cells = torch.arange(84, dtype=torch.float64).sin().view(4, 7, 3)
    return cells, torch.tensor([[0.75, 0.1, 6, 3.5], [-1.5, 1, 2.5, 10]], dtype=torch.float64)


def test_a_kernel_is_started_with_its_arguments(driver: Driver, tmp_path: Path) -> None:
    pooled = pool_on_gpu(tmp_path / "kernels")
    assert driver.launches == [("prroi_pool_double", [1, 1, 1, 256, 1, 1], 77)]
    torch.testing.assert_close(pooled, pool_by_matrix(*pooling_inputs(), 4).values)


@pytest.mark.parametrize(("count", "blocks"), [(257, 2), (2**40, 2**31 - 1)])
def test_there_are_enough_blocks(driver: Driver, tmp_path: Path, count: int, blocks: int) -> None:
    driver.cpu.run = lambda symbol, values: None  # type: ignore[method-assign]
    pool_on_gpu(tmp_path / "kernels", count)
    assert driver.launches == [("prroi_pool_double", [blocks, 1, 1, 256, 1, 1], 77)]


def test_nothing_is_started_for_no_indices(driver: Driver, tmp_path: Path) -> None:
    pool_on_gpu(tmp_path / "kernels", 0)
    assert driver.launches == []  # CUDA refuses a grid of 0 blocks


def test_a_driver_that_does_not_take_the_kernels(driver: Driver, tmp_path: Path) -> None:
    driver.status = SimpleNamespace(value=209, name="CUDA_ERROR_NO_BINARY_FOR_GPU")
    with pytest.raises(BuildError, match="driver answered CUDA_ERROR_NO_BINARY_FOR_GPU"):
        pool_on_gpu(tmp_path / "kernels")


def test_a_failed_start_is_an_error(driver: Driver, tmp_path: Path) -> None:
    run = Kernels(CudaLibrary("prroi_pool", tmp_path / "kernels", torch.device("cuda", 1)))
    driver.status = SimpleNamespace(value=700, name="CUDA_ERROR_ILLEGAL_ADDRESS")
    cells, boxes = pooling_inputs()
    with pytest.raises(RuntimeError, match="driver answered CUDA_ERROR_ILLEGAL_ADDRESS"):
        run("prroi_pool", 1, cells.clone(), cells, boxes, *cells.shape, 4)
