# SPDX-License-Identifier: Apache-2.0
"""Finds an operator's kernels for the device that its tensors are on, building them if need be."""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from tracker_ros.cuda.build import BuildError, default_folder
from tracker_ros.cuda.compilers import CppLibrary, CudaLibrary

_LOG = logging.getLogger(__name__)
_TYPES = {torch.float32: "float", torch.float64: "double"}


class Library(Protocol):
    """Compiled kernels of one file, for one device."""

    def run(self, symbol: str, values: Sequence[ctypes._SimpleCData]) -> None:
        """Run the kernel `symbol`; `values` are its number of indices and its arguments."""


class Kernels:
    """Calls the kernels of a library with tensors and numbers."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def __call__(self, kernel: str, count: int, out: Tensor, *arguments: Tensor | float) -> None:
        """Run a kernel for the indices 0 .. count - 1.

        Args:
            kernel: Its name in the source, without the type of number.
            count: Number of indices.
            out: float32 or float64, which all other tensors share; all are contiguous.
            arguments: Tensors, integers and floats as the kernel wants them.
        """
        values = [_c_value(argument) for argument in (count, out, *arguments)]
        if count > 0:
            self._library.run(f"{kernel}_{_TYPES[out.dtype]}", values)


def _c_value(argument: Tensor | float) -> ctypes._SimpleCData:
    """A tensor's address, an integer or a float, as kernels take them."""
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    return ctypes.c_int64(argument) if isinstance(argument, int) else ctypes.c_double(argument)


_found: dict[tuple[str, torch.device], Kernels | None] = {}
_reported: set[str] = set()
_lock = threading.Lock()


def kernels(name: str, device: torch.device) -> Kernels | None:
    """The kernels of one file for a device, or None where they cannot be had.

    Why not is logged, once per process for each reason; it is not tried again.

    Args:
        name: File in `kernels/`, without its suffix.
        device: Of the tensors; kernels exist for CPUs and CUDA.
    """
    with _lock:
        if (name, device) not in _found:
            try:
                _found[name, device] = Kernels(_built(name, device))
            except BuildError as error:
                _found[name, device] = None
                if str(error) not in _reported:
                    _reported.add(str(error))
                    _LOG.warning(
                        "no compiled operators on %s, plain PyTorch takes their place: %s",
                        device.type,
                        error,
                    )
        return _found[name, device]


def _built(name: str, device: torch.device) -> Library:
    if device.type == "cpu":
        return CppLibrary(name, default_folder())
    if device.type == "cuda":
        return CudaLibrary(name, default_folder(), device)
    raise BuildError("there are kernels for cpu and cuda only")
