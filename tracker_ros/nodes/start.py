# SPDX-License-Identifier: Apache-2.0
"""Starts the programs: `ros2 run tracker_ros track`, or `python -m tracker_ros.nodes.start track`.

Importing ROS takes a second or more. A signal that comes meanwhile ends the process at once,
without a traceback, so this module imports nothing before it takes the signals.
"""

import os
import signal
import sys


def track() -> None:
    """Run the tracker."""
    _start("track", 0)


def video() -> None:
    """Run the camera stand-in."""
    _start("video", 0)


def select_target() -> None:
    """Run the program that selects a target."""
    _start("select_target", 128 + signal.SIGINT)


def hog_people() -> None:
    """Run the example of a detector."""
    _start("robot.hog_people", 0)


def ibvs() -> None:
    """Run the program that turns a camera after the target."""
    _start("robot.ibvs", 0)


def mavlink_bridge() -> None:
    """Run the bridge to MAVLink."""
    _start("robot.mavlink_bridge", 0)


def console() -> None:
    """Run the console in the browser."""
    _start("console", 0)


def _start(program: str, interrupted: int) -> None:
    """Import a program and run it; `interrupted` is its exit status after a signal."""

    def end(number: int, frame: object) -> None:
        os._exit(interrupted)  # there is nothing yet that would have to be tidied up

    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    import importlib

    importlib.import_module(f"tracker_ros.nodes.{program}").main()


if __name__ == "__main__":
    programs = (track, video, select_target, hog_people, ibvs, mavlink_bridge, console)
    {program.__name__: program for program in programs}[sys.argv.pop(1)]()
