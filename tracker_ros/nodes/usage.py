# SPDX-License-Identifier: Apache-2.0
"""The command line of a node that has only ROS's arguments: ``--help``, and no others."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence

from rclpy.utilities import remove_ros_args

from tracker_ros.nodes.parameters import ParameterSpec

__all__ = ["check_command_line"]

_INDENT = "      "


def check_command_line(
    program: str, about: str, specs: Sequence[ParameterSpec], args: list[str] | None
) -> None:
    """End the program if it is asked for help or given an argument that it would pass over.

    Args:
        program: Name of the executable.
        about: What it does, in a sentence.
        specs: Its parameters.
        args: Command line without the program's name, that of this process if None.

    Raises:
        SystemExit: 0 after help; 2 for an argument that is not ROS's.
    """
    parameters = "\n".join(
        f"  {spec.name} ({spec.default!r})\n"
        + textwrap.fill(spec.description, 90, initial_indent=_INDENT, subsequent_indent=_INDENT)
        for spec in specs
    )
    parser = argparse.ArgumentParser(
        prog=program,
        usage=f"ros2 run tracker_ros {program} [-h] [--ros-args -p NAME:=VALUE -r FROM:=TO ...]",
        description=about,
        epilog="parameters, with their defaults, given by --ros-args -p NAME:=VALUE or "
        f"--params-file FILE:\n{parameters}\n\nWhile it runs: ros2 param describe /{program} NAME",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(remove_ros_args(sys.argv[1:] if args is None else args))
