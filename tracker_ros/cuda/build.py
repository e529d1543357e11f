# SPDX-License-Identifier: Apache-2.0
"""Compiles the files of `kernels/` for the device that tensors are on, and calls their kernels.

For the CPU by g++, called through ctypes, without torch's headers. For a GPU by NVRTC at run time,
started through the driver; that needs NVIDIA's `cuda-bindings` and an NVRTC (from a wheel, a CUDA
toolkit or JetPack), which are optional, come along with PyTorch's CUDA wheels, and are imported
when a kernel is first wanted. What was compiled is kept in the user's cache.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_ros.arrays import Array, is_numpy
from tracker_ros.cache import Cache, Key, cache_folder
from tracker_ros.process import thread_count

if TYPE_CHECKING:
    import torch

KERNELS = Path(__file__).parent / "kernels"
CPP_OPTIONS = (
    *("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math"),
    *("-shared", "-fPIC", "-x", "c++"),
)
# Tried first; the processor is part of the key, since a home folder, and the cache in it, may be
# shared by machines of different kinds.
NATIVE = "-march=native"
CUDA_OPTIONS = ("--std=c++17", f"--include-path={KERNELS}")
_CPU_INFO = Path("/proc/cpuinfo")
_CPU_FACTS = ("model name", "flags", "CPU implementer", "CPU part", "Features")
_TIMEOUT_SECONDS = 120
_THREADS = 256
_MAX_BLOCKS = 2**31 - 1
_LOG = logging.getLogger(__name__)
_TYPES = {"float32": "float", "float64": "double"}

Values = Sequence["ctypes._SimpleCData"]


class BuildError(RuntimeError):
    """Kernels could not be built or loaded; the message says why and what would help."""


class Kernels:
    """Calls the kernels of a library with arrays and numbers."""

    def __init__(self, library: CppLibrary | CudaLibrary) -> None:
        self._library = library

    def __call__(self, kernel: str, count: int, out: Array, *arguments: Array | float) -> None:
        """Run a kernel for the indices 0 .. count - 1.

        `kernel` is its name in the source, without the type of number, which is that of `out` and
        of all arrays: float32 or float64, contiguous. Arguments follow in the kernel's order.
        """
        values = [_c_value(argument) for argument in (count, out, *arguments)]
        if count > 0:
            number = _TYPES[str(out.dtype).removeprefix("torch.")]
            self._library.run(f"{kernel}_{number}", values)


def _c_value(argument: Array | float) -> ctypes._SimpleCData:
    """Return an array's address, an integer or a float as kernels take them."""
    if not isinstance(argument, (int, float)):
        numpy = is_numpy(argument)
        return ctypes.c_void_p(argument.ctypes.data if numpy else argument.data_ptr())
    return ctypes.c_int64(argument) if isinstance(argument, int) else ctypes.c_double(argument)


_found: dict[tuple[str, torch.device | str], Kernels | None] = {}
_reported: set[str] = set()
_lock = threading.Lock()


def kernels(name: str, device: torch.device | str) -> Kernels | None:
    """Return the kernels of a file `kernels/NAME.cuh` for a device; None if they cannot be built.

    NumPy arrays are on the device "cpu". The reason is logged once per process; building is not
    tried again.
    """
    with _lock:
        if (name, device) not in _found:
            try:
                _found[name, device] = Kernels(_library(name, device))
            except BuildError as error:
                _found[name, device] = None
                if str(error) not in _reported:
                    _reported.add(str(error))
                    _LOG.warning(
                        "no compiled operators on %s, slower ones take their place: %s",
                        _kind(device),
                        error,
                    )
        return _found[name, device]


def _kind(device: torch.device | str) -> str:
    return device if isinstance(device, str) else device.type


def _library(name: str, device: torch.device | str) -> CppLibrary | CudaLibrary:
    try:
        folder = cache_folder("kernels")
    except RuntimeError as error:
        raise BuildError(str(error)) from error
    if _kind(device) == "cpu":
        return CppLibrary(name, folder)
    if not isinstance(device, str) and device.type == "cuda":
        return CudaLibrary(name, folder, device)
    raise BuildError("there are kernels for cpu and cuda only")


def _compiled(
    folder: Path, name: str, suffix: str, parts: dict[str, str], compile_to: Callable[[Path], None]
) -> Path:
    """Return the file that a compiler made of a file of kernels, from the cache if possible.

    `parts` is what it depends on besides the sources; `compile_to` writes it to a path. Raises
    BuildError if the folder of the cache cannot be used, or the compiler failed.
    """
    # Any file of kernels may include any other.
    sources = b"".join(path.read_bytes() for path in sorted(KERNELS.glob("*.cuh")))
    key = Key(name, {**parts, "sources": hashlib.sha256(sources).hexdigest()})

    def make() -> tuple[dict[str, bytes], dict[str, str]]:
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / f"{name}{suffix}"
            compile_to(out)
            return {suffix: out.read_bytes()}, {}

    try:
        cache = Cache(folder)
        return cache.path(cache.obtain(key, make).stem, suffix)
    except OSError as error:
        raise BuildError(
            f"the cache folder {folder} cannot be used ({error.strerror or error}); "
            "make it writable, or set XDG_CACHE_HOME to a folder that is"
        ) from error


class CppLibrary:
    """The kernels of one file, as loops on the CPU.

    Raises BuildError if there is no compiler, it failed, or its result cannot be kept in the
    folder of the cache or loaded.
    """

    def __init__(self, name: str, folder: Path) -> None:
        compiler = shutil.which("g++")
        if compiler is None:
            raise BuildError("there is no g++ on PATH (apt-get install g++)")
        command = [*CPP_OPTIONS, str(KERNELS / f"{name}.cuh"), "-o"]

        def compile_to(out: Path) -> None:
            try:
                _run([compiler, NATIVE, *command, str(out)])
            except BuildError:
                _run([compiler, *command, str(out)])

        parts = {
            "compiler": _run([compiler, "--version"]) + _run([compiler, "-dumpmachine"]),
            "processor": processor_digest(),
            "options": " ".join([NATIVE, *CPP_OPTIONS]),
        }
        try:
            self._library = ctypes.CDLL(str(_compiled(folder, name, ".so", parts, compile_to)))
        except OSError as error:
            raise BuildError(f"the kernels cannot be loaded ({error})") from error

    def run(self, symbol: str, values: Values) -> None:
        """Run a kernel for all its indices, divided among `process.thread_count` threads.

        The values are the number of indices, then the kernel's arguments.
        """
        function = getattr(self._library, symbol)
        function.restype = None
        count, *arguments = values
        parts = max(1, min(thread_count(), count.value))
        edges = [ctypes.c_int64(count.value * part // parts) for part in range(parts + 1)]
        ranges = [(*between, *arguments) for between in zip(edges, edges[1:], strict=False)]
        # ctypes releases Python's lock during a call.
        others = [threading.Thread(target=function, args=values) for values in ranges[1:]]
        for thread in others:
            thread.start()
        function(*ranges[0])
        for thread in others:
            thread.join()


def processor_digest() -> str:
    """Return a digest of what decides which instructions a compiler may use on this machine."""
    lines = _CPU_INFO.read_text().splitlines() if _CPU_INFO.exists() else []
    facts = sorted({line for line in lines if line.startswith(_CPU_FACTS)})
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _run(command: list[str]) -> str:
    """Return a compiler's output; raises BuildError if it cannot be started, failed, or hangs."""
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
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = next((line for line in lines if "error" in line), " ".join(lines[:1]))
        raise BuildError(f"'{' '.join(command)}' exited with {done.returncode}: {reason}")
    return done.stdout.decode(errors="replace")


def cubin(name: str, architecture: str, folder: Path, number: str = "float") -> bytes:
    """Return the kernels of one file, compiled for one architecture of GPUs, such as "sm_87".

    `number` is "float" or "double". Raises BuildError if there is no NVRTC, it failed, or its
    result cannot be kept.
    """
    try:
        from cuda.bindings import nvrtc

        version = _checked(nvrtc, nvrtc.nvrtcVersion())
    except (ImportError, RuntimeError) as error:
        raise BuildError(f"NVRTC is missing ({error}; pip install cuda-bindings)") from error
    options = [f"--gpu-architecture={architecture}", f"-DNUMBER={number}", *CUDA_OPTIONS]
    parts = {"compiler": repr(version), "options": " ".join(options[:3])}
    source = KERNELS / f"{name}.cuh"
    return _compiled(
        folder, name, ".cubin", parts, lambda out: _compile_cuda(nvrtc, source, options, out)
    ).read_bytes()


def _compile_cuda(nvrtc: Any, source: Path, options: list[str], out: Path) -> None:
    """Compile a file and write the cubin; raises BuildError with the compiler's own message."""
    program = _checked(
        nvrtc, nvrtc.nvrtcCreateProgram(source.read_bytes(), source.name.encode(), 0, [], [])
    )
    try:
        encoded = [option.encode() for option in options]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = bytearray(_checked(nvrtc, nvrtc.nvrtcGetProgramLogSize(program)))
            _checked(nvrtc, nvrtc.nvrtcGetProgramLog(program, log))
            message = log.decode(errors="replace").strip("\0 \n") or status.name
            raise BuildError(f"NVRTC with {' '.join(options)} failed: {message.splitlines()[0]}")
        code = bytearray(_checked(nvrtc, nvrtc.nvrtcGetCUBINSize(program)))
        _checked(nvrtc, nvrtc.nvrtcGetCUBIN(program, code))
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    out.write_bytes(code)


class CudaLibrary:
    """The kernels of one file, on one GPU; raises BuildError if they cannot be made or loaded."""

    def __init__(self, name: str, folder: Path, device: torch.device) -> None:
        self._name, self._folder, self._device = name, folder, device
        self._modules: dict[str, Any] = {}
        self._functions: dict[str, Any] = {}
        try:
            from cuda.bindings import driver

            self._driver = driver
            handle = _checked(driver, driver.cuDeviceGet(device.index))
            # The context that torch uses; it has to be current in whichever thread calls.
            self._context = _checked(driver, driver.cuDevicePrimaryCtxRetain(handle))
            self._load("float")
        except BuildError:
            raise
        except (ImportError, RuntimeError) as error:
            raise BuildError(f"the CUDA driver does not take the kernels ({error})") from error

    def _load(self, number: str) -> None:
        """Compile the kernels of one type of number, and make them ready."""
        import torch

        major, minor = torch.cuda.get_device_capability(self._device)
        code = cubin(self._name, f"sm_{major}{minor}", self._folder, number)
        with torch.cuda.device(self._device):
            _checked(self._driver, self._driver.cuCtxSetCurrent(self._context))
            loaded = self._driver.cuModuleLoadData(code)
            self._modules[number] = _checked(self._driver, loaded)

    def run(self, symbol: str, values: Values) -> None:
        """Start a kernel for all its indices on torch's current stream, without waiting.

        See `CppLibrary.run`. Raises RuntimeError if the driver refused.
        """
        import torch

        stream = torch.cuda.current_stream(self._device).cuda_stream
        with torch.cuda.device(self._device):
            _checked(self._driver, self._driver.cuCtxSetCurrent(self._context))
            if symbol not in self._functions:
                number = symbol.rpartition("_")[2]
                if number not in self._modules:
                    self._load(number)
                found = self._driver.cuModuleGetFunction(self._modules[number], symbol.encode())
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
    """Return what a call answered beside its status; raises RuntimeError if it is no success."""
    status, *values = answer
    if status.value != 0:
        raise RuntimeError(f"{library.__name__.rsplit('.')[-1]} answered {status.name}")
    return values[0] if len(values) == 1 else tuple(values)
