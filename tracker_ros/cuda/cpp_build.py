# SPDX-License-Identifier: Apache-2.0
"""Kernels for the CPU: compiled by g++, called through ctypes, with nothing of torch's headers."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tracker_ros.cuda.build_cache import KERNELS, BuildError, cached, sources

# No -march: a home folder, and the cache in it, may be shared by machines of different kinds.
FLAGS = ["-std=c++17", "-O3", "-fno-math-errno", "-shared", "-fPIC", "-x", "c++"]
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
        command = [compiler, *FLAGS, str(KERNELS / f"{name}.cuh"), "-o"]
        key = [version, " ".join(FLAGS).encode(), *sources()]
        path, _ = cached(folder, f"{name}.so", key, lambda out: _run([*command, str(out)]))
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise BuildError(f"the kernels cannot be loaded ({error})") from error

    def run(self, symbol: str, values: Sequence[ctypes._SimpleCData]) -> None:
        """Run a kernel for all its indices, in this thread.

        Args:
            symbol: Exported name.
            values: Number of indices, then the kernel's arguments.
        """
        function = getattr(self._library, symbol)
        function.restype = None
        function(*values)


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
