# SPDX-License-Identifier: Apache-2.0
"""Kernels for the CPU: compiled by g++, called through ctypes, with nothing of torch's headers."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

import torch

from tracker_ros.cuda.build_cache import KERNELS, BuildError, cached, sources

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
