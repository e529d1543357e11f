# SPDX-License-Identifier: Apache-2.0
"""Settings of a process, made by programs only: how threads wait, and what happens to free memory.

Importing the package changes none of them. OpenMP reads its settings when torch is imported, so a
program calls `set_waiting` first; what the user has set in the environment takes precedence.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

SLEEPING = {"OMP_WAIT_POLICY": "passive"}
"""Threads sleep while they wait for each other. Where another program wants the same cores, as on
every robot, a spinning thread keeps off the one it waits for, and a frame takes up to thirty times
as long."""
SPINNING = {**SLEEPING, "GOMP_SPINCOUNT": "1000"}
"""Threads spin for some microseconds before they sleep, which saves up to 40 % of a frame for a
program that has the machine to itself."""

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_PAD_BYTES = 256 * 1024 * 1024


def set_waiting(settings: dict[str, str]) -> None:
    """Decide how OpenMP's threads wait, `SLEEPING` or `SPINNING`, before torch is imported."""
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def keep_large_buffers() -> bool:
    """Make glibc serve large allocations from the heap and never trim it; tell if it could.

    Drawing and training allocate the same megabytes again at every step; by default each comes
    from a fresh mapping whose pages the kernel must clear first, which took over half of the time
    of drawing pairs. Worker processes inherit the setting.
    """
    mallopt = _glibc("mallopt")
    if mallopt is None:
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, _PAD_BYTES))
    done = [mallopt(name, value) == 1 for name, value in settings]
    return all(done)


def give_back_free_memory() -> bool:
    """Return the heap's free memory to the kernel, also from its middle; tell if there was any.

    By itself glibc does so only at the heap's end, which one small block can hold in place: after
    a model is dropped, tens of megabytes stay with the process. Takes some milliseconds.
    """
    malloc_trim = _glibc("malloc_trim")
    return malloc_trim is not None and bool(malloc_trim(0))


def _glibc(name: str) -> Any:
    """Return a function of the C library, or None if it has none of that name."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
