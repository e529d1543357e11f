# SPDX-License-Identifier: Apache-2.0
"""How the node ends: at once, with status 0 and in silence, whatever it is doing."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
from conftest import ON_TORCH
from graph_probe import PATIENCE_S

from tools.harness.domain import private_domain
from tools.harness.program import Program, node_command
from tools.kills import Kill, kill_once, table

SHARED = ("/dev/shm/fastrtps_", "/dev/shm/fastdds_")  # of Fast DDS 2 and 3


@pytest.fixture(scope="module", autouse=True)
def own_domain():
    """The killed nodes are not heard by the nodes that other tests share."""
    with private_domain():
        yield


@pytest.mark.parametrize(
    ("state", "sign"), [("starting", signal.SIGINT), ("loading", signal.SIGTERM)]
)
def test_a_killed_node_ends_in_silence_and_leaves_nothing(state, sign):
    # Busy machines take longer than robots, so seconds are not judged here; `tools.kills` does.
    kill = kill_once(state, random.Random(3), sign, limit_s=60.0)
    assert kill.status == 0
    assert kill.problem == ""


def large_segments(pid: int) -> set[Path]:
    """Return the files of shared memory above a megabyte that a process uses."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    names = {line[line.index("/dev/shm/") :] for line in maps.splitlines() if "/dev/shm/" in line}
    files = {Path(name) for name in names if name.startswith(SHARED)}
    return {path for path in files if path.exists() and path.stat().st_size > 1_000_000}


def test_a_node_that_ends_in_order_takes_its_shared_memory_with_it(tmp_path):
    command = node_command("track", "--ros-args", *ON_TORCH)
    with Program(command, tmp_path / "log") as program:
        deadline = time.monotonic() + PATIENCE_S
        while "active: images from" not in program.output and time.monotonic() < deadline:
            time.sleep(0.1)
        held = large_segments(program.pid)
    assert held, "the middleware uses no shared memory, so there is nothing to see here"
    assert {path.name for path in held if path.exists()} == set()


@pytest.mark.parametrize("program", ["track", "select_target"])
def test_a_log_folder_that_cannot_be_written_is_one_line(run_program, monkeypatch, program):
    monkeypatch.setenv("ROS_LOG_DIR", "/proc/none/log")
    process = run_program(program)
    assert process.wait() == 1
    (line,) = process.output.strip().splitlines()
    assert "/proc/none/log" in line
    assert "ROS_LOG_DIR" in line


def test_the_table_counts_what_was_not_good():
    seen = ((0.1, ""), (0.2, "status 1"), (0.3, ""))
    kills = [Kill("idle", "SIGINT", 0, seconds, problem) for seconds, problem in seen]
    cells = [cell.strip() for cell in table(kills).splitlines()[-1].split("|")[1:-1]]
    assert cells == ["idle", "3", "2", "0.20 s", "0.30 s"]
