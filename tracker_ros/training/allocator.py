# SPDX-License-Identifier: Apache-2.0
"""Keep large buffers in the process instead of handing them back to the kernel every step."""

from __future__ import annotations

import ctypes
import sys

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
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, _PAD_BYTES))
    done = [mallopt(name, value) == 1 for name, value in settings]
    return all(done)
