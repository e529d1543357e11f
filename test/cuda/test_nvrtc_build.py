# SPDX-License-Identifier: Apache-2.0
"""Building for GPUs, which needs none, and how a kernel would be started on one."""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tracker_ros.cuda.build_cache import KERNELS, BuildError
from tracker_ros.cuda.library import Kernels
from tracker_ros.cuda.nvrtc_build import cubin, launch

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
    pooling = ["prroi_pool", "prroi_pool_grad_features", "prroi_pool_grad_boxes"]
    assert ENTRIES["prroi_pool"] == pooling
    assert all(ENTRIES.values())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", ENTRIES)
def test_compiles_for_every_supported_gpu(name: str, architecture: str, tmp_path: Path) -> None:
    code = cubin(name, architecture, tmp_path / "kernels")
    assert code[:4] == b"\x7fELF"
    assert int.from_bytes(code[18:20], "little") == CUDA_MACHINE
    assert code[FLAG_OF_ARCHITECTURE] == int(architecture.removeprefix("sm_"))
    for kernel in ENTRIES[name]:
        for number in ("float", "double"):
            assert f".text.{kernel}_{number}\0".encode() in code


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


class Driver:
    """Stands in for the driver's one function: reads what the real one would read."""

    __name__ = "cuda.bindings.driver"

    def __init__(self, types: list[Any], status: SimpleNamespace) -> None:
        self.types, self.status = types, status
        self.seen: dict[str, Any] = {}

    def cuLaunchKernel(self, function: Any, *given: Any) -> tuple[SimpleNamespace]:  # noqa: N802
        *sizes, shared, stream, at, extra = given
        addresses = (ctypes.c_void_p * len(self.types)).from_address(at)
        values = [
            kind.from_address(a).value for kind, a in zip(self.types, addresses, strict=True)
        ]
        self.seen = {"function": function, "sizes": sizes, "stream": stream, "values": values}
        assert (shared, extra) == (0, 0)
        return (self.status,)


@pytest.mark.parametrize(("count", "blocks"), [(1, 1), (256, 1), (257, 2), (2**40, 2**31 - 1)])
def test_what_is_handed_to_the_driver(count: int, blocks: int) -> None:
    values = [ctypes.c_int64(count), ctypes.c_void_p(2**47 + 8), ctypes.c_double(0.125)]
    driver = Driver([type(value) for value in values], SimpleNamespace(value=0))
    launch(driver, "function", values, stream=77)
    assert driver.seen == {
        "function": "function",
        "sizes": [blocks, 1, 1, 256, 1, 1],
        "stream": 77,
        "values": [count, 2**47 + 8, 0.125],
    }


def test_nothing_is_started_for_no_indices() -> None:
    class Refusing:
        def run(self, symbol: str, values: object) -> None:
            raise AssertionError(f"{symbol} was started; CUDA refuses a grid of 0 blocks")

    Kernels(Refusing())("prroi_pool", 0, torch.zeros(0))


def test_a_refusal_of_the_driver_is_an_error() -> None:
    status = SimpleNamespace(value=700, name="CUDA_ERROR_ILLEGAL_ADDRESS")
    with pytest.raises(RuntimeError, match="driver answered CUDA_ERROR_ILLEGAL_ADDRESS"):
        launch(Driver([ctypes.c_int64], status), "function", [ctypes.c_int64(1)], stream=0)
