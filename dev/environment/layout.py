# SPDX-License-Identifier: Apache-2.0
"""Where the parts of the development environment lie, and what its kinds share."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path

FOREIGN = ("AMENT_", "CATKIN_", "CMAKE_PREFIX", "COLCON_", "LD_LIBRARY_PATH", "PYTHON", "ROS_")


@dataclass(frozen=True)
class Layout:
    """Folders of one checkout; everything that a set-up writes is below ``dev``.

    Attributes:
        root: The checkout.
        part: Folder below ``.dev`` of an environment that stands beside the usual one.
    """

    root: Path
    part: str = ""

    @property
    def dev(self) -> Path:
        """The git-ignored folder that holds the whole environment."""
        return self.root / ".dev" / self.part

    @property
    def venv(self) -> Path:
        """The virtual environment."""
        return self.dev / "venv"

    @property
    def python(self) -> Path:
        """The virtual environment's interpreter."""
        return self.venv / "bin" / "python"

    @property
    def workspace(self) -> Path:
        """Colcon's build, install and log folders of this repository's two packages."""
        return self.dev / "workspace"

    @property
    def tools(self) -> Path:
        """The tracked folder that holds this program and its requirement files."""
        return self.root / "dev"

    @property
    def domain_id(self) -> int:
        """A DDS domain for this checkout (1 to 99), so that two checkouts do not meet."""
        return zlib.crc32(str(self.root).encode()) % 99 + 1

    def build_environment(self, *, keep_ros: bool) -> dict[str, str]:
        """Return the variables for set-up commands, without those that would leak into the result.

        Args:
            keep_ros: Keep the variables of a sourced ROS installation.
        """
        env = {
            name: value
            for name, value in os.environ.items()
            if keep_ros or not name.startswith(FOREIGN)
        }
        for name in ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PYTHONHOME"):
            env.pop(name, None)
        env.update(
            VIRTUAL_ENV=str(self.venv),
            PATH=f"{self.venv / 'bin'}{os.pathsep}{env.get('PATH', os.defpath)}",
            PIP_CACHE_DIR=str(self.dev / "cache" / "pip"),
            PIP_DISABLE_PIP_VERSION_CHECK="1",
            PIP_NO_INPUT="1",
            COLCON_HOME=str(self.dev / "cache" / "colcon"),
            PYTHONNOUSERSITE="1",
        )
        return env

    def common_exports(self) -> str:
        """Return the shell lines that both kinds of environment share."""
        dev = self.dev
        return f"""\
export TRACKER_ROS_DEV="{self.root}"
export VIRTUAL_ENV="{self.venv}"
export PATH="{dev}/bin:{self.venv}/bin:$PATH"
export COLCON_HOME="{dev}/cache/colcon"
# A domain of its own on this host only, unless the caller chose one.
export ROS_DOMAIN_ID="${{ROS_DOMAIN_ID:-{self.domain_id}}}"
export ROS_AUTOMATIC_DISCOVERY_RANGE="${{ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}}"
# Images are larger than what Fast DDS hands over through shared memory by default.
export FASTRTPS_DEFAULT_PROFILES_FILE="{self.root}/config/fastdds.xml"
export FASTDDS_DEFAULT_PROFILES_FILE="{self.root}/config/fastdds.xml"
export ROS_LOG_DIR="${{ROS_LOG_DIR:-{dev}/log}}"
# Compiled Python files go to one place instead of into the source tree.
unset PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX="{dev}/cache/pycache"
export MPLCONFIGDIR="{dev}/cache/matplotlib"
"""
