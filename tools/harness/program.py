# SPDX-License-Identifier: Apache-2.0
"""Run a program as a process of its own: keep its output, read its memory, end it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def python_command(module: str, *arguments: object) -> list[str]:
    """Return the command line that runs a Python module."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def node_command(program: str, *arguments: object) -> list[str]:
    """Return the command line of a program in `tracker_ros.nodes`, without `ros2 run`."""
    return python_command("tracker_ros.nodes.start", program, *arguments)


class Program:
    """A running program; leaving the `with` block ends it as Ctrl-C does.

    Args:
        command: Its command line.
        log: File that receives its output and errors; None discards them.
        settings: Environment variables to add.
        group: Start it in a process group of its own, and signal the whole group: needed for
            programs that start others, such as `ros2 launch`.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path | None = None,
        settings: Mapping[str, str] | None = None,
        group: bool = False,
    ) -> None:
        self.log = log
        self._group = group
        with open(log or os.devnull, "w") as output:
            self._process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(settings or {})},
                start_new_session=group,
            )

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the program still runs."""
        return self._process.poll() is None

    @property
    def status(self) -> int | None:
        """The exit status; None while the program runs."""
        return self._process.poll()

    @property
    def output(self) -> str:
        """Everything that the program has printed so far."""
        return self.log.read_text(errors="replace") if self.log else ""

    @property
    def last_line(self) -> str:
        """The last line of the output, and where to find the rest."""
        lines = [line for line in self.output.splitlines() if line.strip()]
        return f"{lines[-1] if lines else 'no output'} (full output: {self.log})"

    @property
    def resident_mib(self) -> float:
        """Memory that the process holds now, MiB."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    @property
    def processor_s(self) -> float:
        """Processor time that the process has used so far, seconds."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def send(self, sign: signal.Signals) -> None:
        """Send a signal, to the whole group if the program has one."""
        if self._group:
            os.killpg(self._process.pid, sign)
        else:
            self._process.send_signal(sign)

    def wait(self, timeout_s: float = 60.0) -> int:
        """Wait until the program ends by itself. Returns its exit status.

        Raises:
            subprocess.TimeoutExpired: The program still runs after `timeout_s` seconds.
        """
        return self._process.wait(timeout_s)

    def stop(self, sign: signal.Signals = signal.SIGINT, patience_s: float = 30.0) -> int:
        """End the program: by `sign`, by SIGTERM if that has no effect, at last by SIGKILL.

        Returns:
            The exit status; that of a signal is negative.
        """
        for each in (sign, signal.SIGTERM, signal.SIGKILL):
            if not self.alive:
                break
            self.send(each)
            try:
                self.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue
        return self.wait()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
