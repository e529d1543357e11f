# SPDX-License-Identifier: Apache-2.0
"""Kernels for the CPU: compiled by g++, called through ctypes, with nothing of torch's headers.

Kernels for the GPU that is there: compiled by NVRTC at run time, started through the driver.

Needs NVIDIA's `cuda-bindings` and an NVRTC (from a wheel, a CUDA toolkit or JetPack); both are
optional, come along with PyTorch's CUDA wheels, and are loaded when a kernel is first wanted.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tracker_ros.cuda.build import KERNELS, BuildError, cached, sources

FLAGS = [
    "-std=c++17",
    "-O3",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-shared",
    "-fPIC",
    "-x",
    "c++",
]
# Tried first; the processor is part of the key, since a home folder, and the cache in it, may be
# shared by machines of different kinds.
NATIVE = "-march=native"
_CPU_INFO = Path("/proc/cpuinfo")
_CPU_FACTS = (b"model name", b"flags", b"CPU implementer", b"CPU part", b"Features")
_TIMEOUT_SECONDS = 120


class CppLibrary:
    """The kernels of one file, as loops on the CPU.

    Args:
        name: File in `kernels/`, without its suffix.
        folder: Of the cache.

    Raises:
        BuildError: There is no compiler, it failed, or its result cannot be kept or loaded.
    """

    def __init__(self, name: str, folder: Path) -> None:
        compiler = shutil.which("g++")
        if compiler is None:
            raise BuildError("there is no g++ on PATH (apt-get install g++)")
        version = _run([compiler, "--version"]) + _run([compiler, "-dumpmachine"])
        arguments = [*FLAGS, str(KERNELS / f"{name}.cuh"), "-o"]

        def build(out: Path) -> None:
            try:
                _run([compiler, NATIVE, *arguments, str(out)])
            except BuildError:
                _run([compiler, *arguments, str(out)])

        key = [version, _processor(), " ".join([NATIVE, *FLAGS]).encode(), *sources()]
        path, _ = cached(folder, f"{name}.so", key, build)
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise BuildError(f"the kernels cannot be loaded ({error})") from error

    def run(self, symbol: str, values: Sequence[ctypes._SimpleCData]) -> None:
        """Run a kernel for all its indices, divided among as many threads as torch uses.

        Args:
            symbol: Exported name.
            values: Number of indices, then the kernel's arguments.
        """
        function = getattr(self._library, symbol)
        function.restype = None
        count, *arguments = values
        parts = max(1, min(torch.get_num_threads(), count.value))
        edges = [ctypes.c_int64(count.value * part // parts) for part in range(parts + 1)]
        ranges = [(*between, *arguments) for between in zip(edges, edges[1:], strict=False)]
        # ctypes lets go of Python's lock for the time of a call.
        others = [threading.Thread(target=function, args=values) for values in ranges[1:]]
        for thread in others:
            thread.start()
        function(*ranges[0])
        for thread in others:
            thread.join()


def _processor() -> bytes:
    """What of this machine decides which instructions a compiler may use."""
    lines = _CPU_INFO.read_bytes().splitlines() if _CPU_INFO.exists() else []
    return b"\n".join(sorted({line for line in lines if line.startswith(_CPU_FACTS)}))


def _run(command: list[str]) -> bytes:
    """Output of a compiler.

    Raises:
        BuildError: It cannot be started, failed, or hangs.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} cannot be run ({error})") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        reason = next((line for line in said if "error" in line), " ".join(said[:1]))
        raise BuildError(f"'{' '.join(command)}' exited with {done.returncode}: {reason}")
    return done.stdout


OPTIONS = ["--std=c++17", f"--include-path={KERNELS}"]
_THREADS = 256
_MAX_BLOCKS = 2**31 - 1


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
            blocks = min(-(-values[0].value // _THREADS), _MAX_BLOCKS)
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
