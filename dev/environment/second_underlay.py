# SPDX-License-Identifier: Apache-2.0
"""ROS 2 Kilted beside the Jazzy of ``underlay.py``, to run the ROS tests on both.

Everything is in ``.dev/kilted``: the compiled parts of Kilted in a virtual environment of their
own, and the messages compiled for them. All that is not ROS (PyTorch, OpenCV, ...) is taken from
the usual environment, which has to be there. The parts that have no package of their own (launch,
ros2cli, tf2, ...) are Jazzy's here, too.
"""

from __future__ import annotations

import os

from layout import Layout
from steps import Log, Step, StepError
from underlay import NETWORK, Underlay


class SecondUnderlay(Underlay):
    """The steps of the second environment, without those that the first one has made."""

    distribution = "kilted"
    requirements = "requirements-kilted.txt"

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self.first = Underlay(Layout(layout.root))
        self.files = self.first.files
        self.numpy = self.first.numpy
        programs = os.pathsep.join([self.env["PATH"], str(self.first.layout.venv / "bin")])
        self.env = {**self.env, "PATH": programs}  # cmake and ninja

    def steps(self) -> list[Step]:
        """Return all steps in the order in which they have to run.

        Raises:
            StepError: There is no usual environment without a ROS installation to stand beside.
        """
        if not (self.first.packages / "rclpy").is_dir() or not self.files.is_dir():
            raise StepError("build the usual environment first: dev/setup, with no ROS sourced")
        venv = self.venv_step()
        packages = Step(
            name="packages",
            title=f"install ROS 2 {self.distribution.capitalize()} (about 100 MB)",
            run=self.install_packages,
            inputs=[self.layout.tools / self.requirements],
            after=[venv],
            made=[self.packages / "rclpy", self.packages / "first.pth"],
            remedy=NETWORK,
        )
        ros = self.ros_python_step([venv, packages])
        return [venv, packages, ros, *self.compile_steps(ros)]

    def install_packages(self, log: Log) -> None:
        """Install ROS alone, and let everything else be found in the first environment."""
        if (self.packages / "first.pth").exists():
            self.create_venv(log)
        requirements = self.layout.tools / self.requirements
        pip = [self.layout.python, "-m", "pip", "install", "--no-compile", "--progress-bar", "off"]
        log.call([*pip, "--no-deps", "-r", requirements], self.env, self.layout.root)
        # Comes last on Python's path, so that Kilted's rclpy hides Jazzy's.
        (self.packages / "first.pth").write_text(f"{self.first.packages}\n", encoding="utf-8")
