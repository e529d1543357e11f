# SPDX-License-Identifier: Apache-2.0
"""Describe the machine that a measurement ran on."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from dataclasses import dataclass
from pathlib import Path

_LIBRARIES = {
    "PyTorch": ("torch",),
    "OpenCV": tuple(
        f"opencv-{kind}"
        for kind in ("contrib-python-headless", "contrib-python", "python-headless", "python")
    ),
    "NumPy": ("numpy",),
}


@dataclass(frozen=True)
class Machine:
    """Hardware and software of a measurement: CPU and its usable cores, GPU if one was used.

    The date is in ISO 8601.
    """

    processor: str
    accelerator: str
    software: str
    date: str

    def sentence(self) -> str:
        """Return the description in one line."""
        gpu = f"GPU {self.accelerator}" if self.accelerator else "no GPU"
        return f"{self.date}; {self.processor}, {gpu}; {self.software}"


def describe_machine(device: str = "cpu") -> Machine:
    """Describe this machine; only libraries that are installed, and a GPU that is the device."""
    accelerator = ""
    if device.startswith("cuda"):
        import torch

        accelerator = torch.cuda.get_device_name(torch.device(device))
    versions = [f"Python {platform.python_version()}"]
    versions += [
        f"{label} {version}"
        for label, names in _LIBRARIES.items()
        if (version := _first_version(names)) is not None
    ]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Machine(
        processor=f"{processor_name()}, {cores} cores",
        accelerator=accelerator,
        software=", ".join(versions),
        date=datetime.date.today().isoformat(),
    )


def _first_version(names: tuple[str, ...]) -> str | None:
    """Return the version of the first of several distributions that is installed."""
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def processor_name() -> str:
    """Return the model name of the CPU as the kernel gives it, else the architecture."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model") and value.strip():
                return " ".join(value.split())
    return platform.processor() or platform.machine()
