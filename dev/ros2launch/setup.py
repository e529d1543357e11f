# SPDX-License-Identifier: Apache-2.0
"""Registers the development stand-in for ``ros2 launch`` with ros2cli."""

from setuptools import setup

setup(
    name="ros2launch-standin",
    version="0.1.0",
    packages=["ros2launch_standin"],
    entry_points={"ros2cli.command": ["launch = ros2launch_standin.command:LaunchCommand"]},
)
