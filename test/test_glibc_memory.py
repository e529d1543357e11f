# SPDX-License-Identifier: Apache-2.0
"""What is free in the heap goes back to the kernel when it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tracker_ros.glibc_memory import keep_large_buffers

# Blocks too small for a mapping of their own; the last one holds the heap's end in place.
HELD_BY_ONE_BLOCK = """
from pathlib import Path
from tracker_ros.glibc_memory import give_back_free_memory

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) / 256

blocks = [bytearray(100_000) for _ in range(600)]
del blocks[:-1]
before = resident_mib()
assert give_back_free_memory()
print(before - resident_mib())
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="settings of glibc")


def test_large_buffers_stay_with_glibc():
    assert keep_large_buffers()


def test_free_memory_below_a_block_in_use_is_given_back():
    done = subprocess.run(
        [sys.executable, "-c", HELD_BY_ONE_BLOCK], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) > 40
