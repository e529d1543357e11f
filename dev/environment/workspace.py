# SPDX-License-Identifier: Apache-2.0
"""Builds this repository's two packages with colcon, so that ROS finds them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from layout import Layout
from steps import Environment, Log, Step

COMPILER_REMEDY = "Install a C++ compiler and Python's headers (apt-get install g++ python3-dev)."


def colcon(
    layout: Layout, log: Log, env: Environment, folder: Path, arguments: Sequence[str | Path]
) -> None:
    """Run ``colcon build`` with build, install and log folders below ``folder``.

    Everything goes into one install folder (--merge-install), as a list of folders on every path
    would make each start of Python slower. MAKEFLAGS keeps colcon from limiting the compiler to
    one process while the machine is busy with something else.
    """
    log.call(
        [
            layout.python,
            "-m",
            "colcon",
            "--log-base",
            folder / "log",
            "build",
            "--merge-install",
            "--build-base",
            folder / "build",
            "--install-base",
            folder / "install",
            "--event-handlers",
            "console_direct+",
            "desktop_notification-",
            "--executor",
            "sequential",
            *arguments,
        ],
        {**env, "MAKEFLAGS": f"-j{os.cpu_count() or 1}"},
        layout.root,
    )


def workspace_steps(
    layout: Layout,
    environment: Callable[[], Environment],
    cmake_arguments: Sequence[str],
    after: Sequence[Step],
) -> list[Step]:
    """Return the steps that build ``tracker_interfaces`` and ``tracker_ros``.

    Args:
        layout: The checkout.
        environment: Gives the variables to build with; asked when the steps before have run.
        cmake_arguments: For the interface package.
        after: Steps whose redoing makes the compiled interfaces stale.
    """
    root, folder = layout.root, layout.workspace
    names = [
        str(path.relative_to(root))
        for data in ("launch", "config", "recipes")
        for path in sorted((root / data).glob("*"))
    ]

    def build_interfaces(log: Log) -> None:
        where = ["--base-paths", root / "tracker_interfaces"]
        colcon(layout, log, environment(), folder, [*where, "--cmake-args", *cmake_arguments])

    def build_package(log: Log) -> None:
        where = ["--base-paths", root, "--packages-select", "tracker_ros", "--symlink-install"]
        colcon(layout, log, environment(), folder, where)

    interfaces = Step(
        name="interfaces",
        title="compile tracker_interfaces",
        run=build_interfaces,
        inputs=[root / "tracker_interfaces", *cmake_arguments],
        after=after,
        made=[folder / "install/share/tracker_interfaces/package.xml"],
        remedy=COMPILER_REMEDY,
    )
    package = Step(
        name="package",
        title="link tracker_ros into the workspace",
        run=build_package,
        inputs=[root / name for name in ("package.xml", "setup.py", "setup.cfg")] + names,
        after=[interfaces],
        made=[folder / "install/lib/tracker_ros/track", folder / "build/tracker_ros"],
        remedy="Look for an error in setup.py or package.xml.",
    )
    return [interfaces, package]
