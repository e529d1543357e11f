# SPDX-License-Identifier: Apache-2.0
"""End the tracker in every way, and start it where its files are damaged or cannot be written."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.harness.program import Program, python_command
from tools.soak.camera import Camera
from tools.soak.driver import Driver

HANG_TIMEOUT_S = 10.0
START_S = 240.0
END_S = 120.0
MAX_FILE_KIB = 300
WAYS: dict[str, tuple[signal.Signals | str, int]] = {
    "Ctrl-C": (signal.SIGINT, 0),
    "SIGTERM": (signal.SIGTERM, 0),
    "SIGKILL": (signal.SIGKILL, -signal.SIGKILL),
    "a worker that ends": ("exit", os.EX_SOFTWARE),
    "a model that hangs": ("hang", os.EX_SOFTWARE),
}
"""By name: a signal or a fault of the model, and the exit status."""

Start = Callable[..., Program]


def starter(command: Path, log: Path) -> Start:
    """Return a function that starts a breakable tracker with ROS parameters."""

    def start(*parameters: str, before: Sequence[str] = ()) -> Program:
        words = [word for parameter in parameters for word in ("-p", parameter)]
        program = python_command("tools.harness.breakable", "--ros-args", *words)
        return Program([*before, *program], log, {"TRACKER_BREAK": str(command)})

    return start


def end_in_each_way(start: Start, camera: Camera, command: Path, ways: Sequence[str]) -> list[str]:
    """Start the tracker, follow, end it; as often as there are ways. Returns what is wrong."""
    wrong = []
    for way in ways:
        deed, expected = WAYS[way]
        command.write_text("")
        parameters = ["backend:=torch", "build_engine:=false"]
        if deed == "hang":  # only here: on a busy machine a sound model may take as long
            parameters.append(f"hang_timeout:={HANG_TIMEOUT_S}")
        with start(*parameters) as node, Driver(camera, alive(node), lambda: None) as driver:
            follow(driver, camera)
            if isinstance(deed, str):
                command.write_text(deed)
            else:
                node.send(deed)
            driver.wait(lambda node=node: not node.alive, END_S)
            if node.status != expected:
                wrong.append(f"after {way} the status is {node.status}, expected {expected}")
    command.write_text("")
    return wrong


def start_among_damaged_files(start: Start, camera: Camera, folder: Path) -> list[str]:
    """Start with a cache that is damaged, and with a disk that is full. Returns what is wrong."""
    wrong = []
    cache = folder / "cache"
    # Python 3.11 would leave bytecode that is cut, and could not import it ever after.
    limits = f"export PYTHONDONTWRITEBYTECODE=1; ulimit -f {MAX_FILE_KIB}"
    limited = ("bash", "-c", f'{limits}; exec "$@"', "-")
    for what, before in (("a full disk", limited), ("no cache", ()), ("a damaged cache", ())):
        if what == "a damaged cache":
            for path in cache.rglob("*"):
                if path.is_file():
                    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with (
            start("backend:=auto", f"engine_cache_dir:={cache}", before=before) as node,
            Driver(camera, alive(node), lambda: None) as driver,
        ):
            if not driver.wait(driver.watched, START_S):
                wrong.append(f"with {what} the node does not become active: {node.last_line}")
                continue
            follow(driver, camera)
            if node.stop() != 0:
                wrong.append(f"with {what} the node ended with status {node.status}")
    return wrong


def alive(node: Program) -> Callable[[], bool]:
    """Return a function that tells whether a program still runs."""
    return lambda: node.alive


def follow(driver: Driver, camera: Camera) -> None:
    """Let the tracker follow a target; HarnessError if it does not."""
    driver.until(driver.watched, "the node to become active", START_S)
    camera.heal()
    driver.set_rate(10.0)
    driver.until(lambda: camera.shown, "an image")
    driver.until(
        lambda: driver.select(camera.shown[-1].box, camera.shown[-1].header).success, "a target"
    )
    heard = driver.boxes_heard
    driver.until(lambda: driver.boxes_heard > heard + 2, "boxes")
