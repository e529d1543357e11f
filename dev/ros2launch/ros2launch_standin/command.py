# SPDX-License-Identifier: Apache-2.0
"""``ros2 launch PACKAGE FILE [name:=value...]`` or ``ros2 launch PATH [name:=value...]``.

The verb's own package is not among the Python packages of ROS. It is a thin layer over
``launch.LaunchService``; this one knows the arguments that a developer types most.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import AnyLaunchDescriptionSource
from ros2cli.command import CommandExtension


class LaunchCommand(CommandExtension):
    """Run a launch file."""

    def add_arguments(self, parser: argparse.ArgumentParser, cli_name: str) -> None:
        """Declare the command line."""
        parser.add_argument("-d", "--debug", action="store_true", help="log in detail")
        parser.add_argument(
            "-n", "--noninteractive", action="store_true", help="started without a terminal"
        )
        parser.add_argument(
            "-s", "--show-args", action="store_true", help="list the file's arguments and stop"
        )
        parser.add_argument("package_or_path", help="package that has the file, or a path")
        parser.add_argument(
            "words", nargs="*", metavar="file or name:=value", help="file, then its arguments"
        )

    def main(self, *, parser: argparse.ArgumentParser, args: argparse.Namespace) -> int | str:
        """Run the file until all its processes have ended; return the exit status."""
        words = list(args.words)
        try:
            path = find_launch_file(args.package_or_path, words)
            given = parse_arguments(words)
        except (OSError, ValueError, PackageNotFoundError) as error:
            return str(error)
        source = AnyLaunchDescriptionSource(str(path))
        include = IncludeLaunchDescription(source, launch_arguments=given)
        service = LaunchService(noninteractive=args.noninteractive, debug=args.debug)
        if args.show_args:
            print_arguments(source.get_launch_description(service.context))
            return 0
        service.include_launch_description(LaunchDescription([include]))
        return service.run()


def find_launch_file(package_or_path: str, words: list[str]) -> Path:
    """Return the launch file; takes its name off the front of ``words`` when a package is given.

    Raises:
        PackageNotFoundError: No such package is installed.
        FileNotFoundError: Neither such a path nor such a file in the package's share folder.
    """
    path = Path(package_or_path)
    if path.is_file():
        return path
    if not words or ":=" in words[0]:
        raise FileNotFoundError(f"no launch file '{path}'; or name a package and its launch file")
    share = Path(get_package_share_directory(package_or_path))
    name = words.pop(0)
    found = sorted(path for path in share.rglob(name) if path.is_file())
    if not found:
        raise FileNotFoundError(f"package '{package_or_path}' has no launch file '{name}'")
    return found[0]


def parse_arguments(words: list[str]) -> list[tuple[str, str]]:
    """Return (name, value) for each ``name:=value``, the last one winning.

    Raises:
        ValueError: A word has another form.
    """
    given = {}
    for word in words:
        name, separator, value = word.partition(":=")
        if not (name and separator):
            raise ValueError(f"launch argument '{word}': expected name:=value")
        given[name] = value
    return list(given.items())


def print_arguments(description: LaunchDescription) -> None:
    """Print what the launch file can be told."""
    print("Arguments (pass arguments as '<name>:=<value>'):")
    for argument in description.get_launch_arguments():
        default = argument.default_value
        shown = "".join(part.text for part in default if hasattr(part, "text")) if default else ""
        choices = f" one of {argument.choices}" if argument.choices else ""
        print(f"\n    '{argument.name}':{choices}\n        {argument.description}")
        if default is not None:
            print(f"        (default: '{shown}')")
