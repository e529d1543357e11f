# SPDX-License-Identifier: Apache-2.0
"""What the C library does with memory that is free: keep it, or give it back to the kernel."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_PAD_BYTES = 256 * 1024 * 1024


def keep_large_buffers() -> bool:
    """Tell glibc to serve large allocations from the heap and never to trim it.

    Drawing and training allocate the same megabytes again at every step; by default each comes
    from a fresh mapping whose pages the kernel must clear first, which took over half of the time
    of drawing pairs. Worker processes inherit the setting.

    Returns:
        Whether it took effect: False where the C library has no `mallopt` (not glibc).
    """
    mallopt = _glibc("mallopt")
    if mallopt is None:
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, _PAD_BYTES))
    done = [mallopt(name, value) == 1 for name, value in settings]
    return all(done)


def give_back_free_memory() -> bool:
    """Return to the kernel what is free in the heap, in the middle too.

    glibc does so by itself only at the heap's end, which one small block can hold in place: after
    a model has gone, tens of megabytes stay with the process. Takes some milliseconds.

    Returns:
        Whether anything was given back: False where the C library has no `malloc_trim` (not
        glibc).
    """
    malloc_trim = _glibc("malloc_trim")
    return malloc_trim is not None and bool(malloc_trim(0))


def _glibc(name: str) -> Any:
    """A function of the C library, or None if it has none of that name."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
