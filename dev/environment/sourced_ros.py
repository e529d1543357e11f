# SPDX-License-Identifier: Apache-2.0
"""The environment on a machine with a sourced ROS installation: that one is used as it is.

The virtual environment sees the system's packages and adds only what they lack, so the
distribution's rclpy, NumPy and OpenCV (and a board's own PyTorch) stay the ones in use.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from importlib import metadata
from pathlib import Path

from layout import Layout
from steps import Log, Step, StepError
from workspace import workspace_steps

NEEDED = (
    "rclpy",
    "tf2_ros_py",
    "vision_msgs",
    "diagnostic_updater",
    "launch_ros",
    "rosidl_default_generators",
)
KEPT = ("AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH", "LD_LIBRARY_PATH", "PYTHONPATH")
ROSDEP = "rosdep install --from-paths . tracker_interfaces --ignore-src"


def sourced_prefixes(layout: Layout) -> list[Path]:
    """Return the prefixes of the ROS installation to use; empty when there is none.

    One that was sourced when the environment was made stays in use in terminals that have not
    sourced it, so that the environment is not rebuilt at each change of terminal.
    """
    memory = layout.dev / "sourced-ros.json"
    if not os.environ.get("ROS_DISTRO") and memory.is_file():
        os.environ.update(json.loads(memory.read_text(encoding="utf-8")))
    if not os.environ.get("ROS_DISTRO"):
        return []
    named = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    paths = [Path(name).resolve() for name in named if name]
    found = [path for path in paths if path.is_dir() and not path.is_relative_to(layout.dev)]
    if found:
        kept = {name: os.environ[name] for name in (*KEPT, "ROS_DISTRO") if os.environ.get(name)}
        memory.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return found


class SourcedRos:
    """The steps of this kind of environment; ``steps()`` gives them in order."""

    def __init__(self, layout: Layout, prefixes: list[Path]) -> None:
        self.layout = layout
        self.prefixes = prefixes
        self.env = {
            **layout.build_environment(keep_ros=True),
            "AMENT_PREFIX_PATH": os.pathsep.join(map(str, prefixes)),
        }

    def steps(self) -> list[Step]:
        """Return all steps in the order in which they have to run."""
        layout, tools = self.layout, self.layout.tools
        venv = Step(
            name="venv",
            title="create the virtual environment over the ROS installation",
            run=self.create_venv,
            inputs=[
                sys.version,
                str(Path(sys.executable).resolve()),
                str(layout.root),
                *map(str, self.prefixes),
            ],
            made=[layout.python],
            remedy=f"Install what the package depends on ({ROSDEP}); if Python cannot import "
            "rclpy, name the one that ROS uses: PYTHON=/usr/bin/python3 make setup.",
        )
        packages = Step(
            name="packages",
            title="install the Python packages that the machine lacks",
            run=self.install_packages,
            inputs=[tools / "requirements.txt"],
            after=[venv],
            remedy="Check that pip reaches its package index and that the disk is not full.",
        )
        cmake = [f"-DPython3_EXECUTABLE={layout.python}", "-DBUILD_TESTING=OFF"]
        return [venv, packages, *workspace_steps(layout, lambda: self.env, cmake, [packages])]

    def create_venv(self, log: Log) -> None:
        """Create a virtual environment that sees the system's packages."""
        missing = [name for name in NEEDED if not self._has(name)]
        if missing:
            raise StepError(f"the sourced ROS lacks {', '.join(missing)}")
        log.call(
            [sys.executable, "-m", "venv", "--clear", "--system-site-packages", self.layout.venv],
            self.env,
            self.layout.root,
        )
        # Fails here, with its reason in the log, if this is not the Python that ROS was built for.
        log.call([self.layout.python, "-c", "import rclpy"], self.env, self.layout.root)

    def _has(self, package: str) -> bool:
        marker = Path("share/ament_index/resource_index/packages", package)
        return any((prefix / marker).exists() for prefix in self.prefixes)

    def install_packages(self, log: Log) -> None:
        """Install what is missing, leaving NumPy at the version that ROS was compiled for."""
        lines = (self.layout.tools / "requirements.txt").read_text(encoding="utf-8").splitlines()
        wanted = [line.split("#")[0].strip() for line in lines]
        missing = [_loosened(line) for line in wanted if line and not _installed(line)]
        missing += ["colcon-common-extensions"] if not _installed("colcon-core") else []
        if not missing:
            log.write("nothing is missing")
            return
        limits = self.layout.dev / "cache" / "limits.txt"
        limits.parent.mkdir(parents=True, exist_ok=True)
        limits.write_text(f"numpy=={metadata.version('numpy')}\n" if _installed("numpy") else "")
        pip = [self.layout.python, "-m", "pip", "install", "--progress-bar", "off"]
        log.call([*pip, "-c", limits, *missing], self.env, self.layout.root)

    def exports(self) -> str:
        """Return the shell lines that make this environment the current one."""
        kept = "\n".join(
            f"export {name}={shlex.quote(self.env[name])}" for name in KEPT if self.env.get(name)
        )
        path = os.pathsep.join(f"{prefix}/bin" for prefix in self.prefixes)
        return f"""\
{kept}
export PATH={shlex.quote(path)}":$PATH"
{self.layout.common_exports()}
export ROS_DISTRO={shlex.quote(os.environ["ROS_DISTRO"])} ROS_VERSION=2 ROS_PYTHON_VERSION=3
source "{self.layout.workspace}/install/local_setup.bash"
"""


def _name(requirement: str) -> str:
    return re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0]


def _loosened(requirement: str) -> str:
    """Drop an exact version, as older distributions need older ones; pytest must stay below 9."""
    name = _name(requirement)
    return "pytest<9" if name == "pytest" else name


def _installed(requirement: str) -> bool:
    try:
        metadata.version(_name(requirement))
    except metadata.PackageNotFoundError:
        return False
    return True
