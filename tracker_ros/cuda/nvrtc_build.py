# SPDX-License-Identifier: Apache-2.0
"""Kernels for the GPU that is there: compiled by NVRTC at run time, started through the driver.

Needs NVIDIA's `cuda-bindings` and an NVRTC (from a wheel, a CUDA toolkit or JetPack); both are
optional, come along with PyTorch's CUDA wheels, and are loaded when a kernel is first wanted.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tracker_ros.cuda.build_cache import KERNELS, BuildError, cached, sources

OPTIONS = ["--std=c++17", f"--include-path={KERNELS}"]
_THREADS = 256
_MOST_BLOCKS = 2**31 - 1


def cubin(name: str, architecture: str, folder: Path) -> bytes:
    """The kernels of one file, compiled for one architecture.

    Args:
        name: File in `kernels/`, without its suffix.
        architecture: For example "sm_87".
        folder: Of the cache.

    Raises:
        BuildError: There is no NVRTC, it failed, or its result cannot be kept.
    """
    try:
        from cuda.bindings import nvrtc

        version = _checked(nvrtc, nvrtc.nvrtcVersion())
    except (ImportError, RuntimeError) as error:
        raise BuildError(f"NVRTC is missing ({error}; pip install cuda-bindings)") from error
    options = [f"--gpu-architecture={architecture}", *OPTIONS]
    key = [repr(version).encode(), architecture.encode(), OPTIONS[0].encode(), *sources()]
    return cached(
        folder,
        f"{name}-{architecture}.cubin",
        key,
        lambda out: _compile(nvrtc, KERNELS / f"{name}.cuh", options, out),
    )[1]


def _compile(nvrtc: Any, source: Path, options: list[str], out: Path) -> None:
    """Compile a file; write the cubin.

    Raises:
        BuildError: With the compiler's own words.
    """
    program = _checked(
        nvrtc, nvrtc.nvrtcCreateProgram(source.read_bytes(), source.name.encode(), 0, [], [])
    )
    try:
        encoded = [option.encode() for option in options]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = bytearray(_checked(nvrtc, nvrtc.nvrtcGetProgramLogSize(program)))
            _checked(nvrtc, nvrtc.nvrtcGetProgramLog(program, log))
            said = log.decode(errors="replace").strip("\0 \n") or status.name
            raise BuildError(f"NVRTC with {' '.join(options)} failed: {said.splitlines()[0]}")
        code = bytearray(_checked(nvrtc, nvrtc.nvrtcGetCUBINSize(program)))
        _checked(nvrtc, nvrtc.nvrtcGetCUBIN(program, code))
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    out.write_bytes(code)


class CudaLibrary:
    """The kernels of one file, on one GPU.

    Args:
        name: File in `kernels/`, without its suffix.
        folder: Of the cache.
        device: A CUDA device of torch.

    Raises:
        BuildError: They cannot be compiled, kept or loaded.
    """

    def __init__(self, name: str, folder: Path, device: torch.device) -> None:
        major, minor = torch.cuda.get_device_capability(device)
        code = cubin(name, f"sm_{major}{minor}", folder)
        self._device = device
        self._functions: dict[str, Any] = {}
        try:
            from cuda.bindings import driver

            self._driver = driver
            handle = _checked(driver, driver.cuDeviceGet(device.index))
            # The context that torch uses; it has to be current in whichever thread calls.
            self._context = _checked(driver, driver.cuDevicePrimaryCtxRetain(handle))
            with torch.cuda.device(device):
                _checked(driver, driver.cuCtxSetCurrent(self._context))
                self._module = _checked(driver, driver.cuModuleLoadData(code))
        except (ImportError, RuntimeError) as error:
            raise BuildError(f"the CUDA driver does not take the kernels ({error})") from error

    def run(self, symbol: str, values: Sequence[ctypes._SimpleCData]) -> None:
        """Start a kernel for all its indices on torch's current stream, without waiting.

        Args:
            symbol: Exported name.
            values: Number of indices, then the kernel's arguments.

        Raises:
            RuntimeError: The driver refused.
        """
        stream = torch.cuda.current_stream(self._device).cuda_stream
        with torch.cuda.device(self._device):
            _checked(self._driver, self._driver.cuCtxSetCurrent(self._context))
            if symbol not in self._functions:
                found = self._driver.cuModuleGetFunction(self._module, symbol.encode())
                self._functions[symbol] = _checked(self._driver, found)
            addresses = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
            blocks = min(-(-values[0].value // _THREADS), _MOST_BLOCKS)
            # The driver copies what the addresses point to before it returns.
            started = self._driver.cuLaunchKernel(
                self._functions[symbol],
                *(blocks, 1, 1),
                *(_THREADS, 1, 1),
                0,
                stream,
                ctypes.addressof(addresses),
                0,
            )
            _checked(self._driver, started)


def _checked(library: Any, answer: tuple[Any, ...]) -> Any:
    """What a call returned beside its status.

    Raises:
        RuntimeError: The status is not success.
    """
    status, *values = answer
    if status.value != 0:
        raise RuntimeError(f"{library.__name__.rsplit('.')[-1]} answered {status.name}")
    return values[0] if len(values) == 1 else tuple(values)
