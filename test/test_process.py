# SPDX-License-Identifier: Apache-2.0
"""Settings of the process: left alone by importing the package, made by programs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tracker_ros.process import SLEEPING, SPINNING, keep_large_buffers, set_waiting

# Blocks too small for a mapping of their own; the last one holds the heap's end in place.
HELD_BY_ONE_BLOCK = """
from pathlib import Path
from tracker_ros.process import give_back_free_memory

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) / 256

blocks = [bytearray(100_000) for _ in range(600)]
del blocks[:-1]
before = resident_mib()
assert give_back_free_memory()
print(before - resident_mib())
"""

IMPORT_ALL = """
import os, torch, cv2  # OpenCV's wheels extend LD_LIBRARY_PATH when they are imported
before = dict(os.environ), torch.get_num_threads(), torch.get_num_interop_threads()
import tracker_ros
for name in tracker_ros.__all__:
    getattr(tracker_ros, name)
assert (dict(os.environ), torch.get_num_threads(), torch.get_num_interop_threads()) == before
"""

of_glibc = pytest.mark.skipif(sys.platform != "linux", reason="settings of glibc")


def test_importing_the_package_changes_neither_environment_nor_threads():
    subprocess.run([sys.executable, "-c", IMPORT_ALL], check=True)


@pytest.mark.parametrize("settings", [SLEEPING, SPINNING])
def test_the_users_own_settings_take_precedence(settings, monkeypatch):
    for name in settings:
        monkeypatch.setenv(name, "")  # so that it is restored afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    set_waiting(settings)
    found = {name: os.environ[name] for name in settings}
    assert found == {**settings, "OMP_WAIT_POLICY": "active"}


@of_glibc
def test_large_buffers_stay_with_glibc():
    assert keep_large_buffers()


@of_glibc
def test_free_memory_below_a_block_in_use_is_given_back():
    done = subprocess.run(
        [sys.executable, "-c", HELD_BY_ONE_BLOCK], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) > 40
