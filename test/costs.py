# SPDX-License-Identifier: Apache-2.0
"""Sum up what the tests cost: wall and CPU seconds per folder, peak memory per test process.

`pytest --costs FILE` writes the sums to a JSON file and prints them. It works with and without
pytest-xdist. CPU seconds include the programs that tests start, such as nodes.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NOTICEABLE_MIB = 100


class Costs:
    """Plug-in that measures each test; a worker of pytest-xdist hands its sums to the controller.

    Args:
        config: Of the test run.
        path: The JSON file to write.
    """

    def __init__(self, config: pytest.Config, path: Path) -> None:
        self._config, self._path = config, path
        self._folders: dict[str, list[float]] = {}
        self._workers: list[dict[str, Any]] = []
        self._raised: dict[str, float] = {}
        self._began = time.monotonic()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Measure one test with its fixtures."""
        wall, cpu, peak = time.monotonic(), _cpu_seconds(), _peak_mib()
        result = yield
        folder = item.nodeid.rpartition("::")[0].split("::")[0].rpartition("/")[0]
        sums = self._folders.setdefault(folder, [0, 0.0, 0.0])
        sums[0] += 1
        sums[1] += time.monotonic() - wall
        sums[2] += _cpu_seconds() - cpu
        if _peak_mib() > peak + NOTICEABLE_MIB:
            self._raised[item.nodeid] = round(_peak_mib())
        return result

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Hand the sums to the controller, or write them."""
        if self._folders:
            self._workers.append(
                {
                    "folders": self._folders,
                    "cpu": _cpu_seconds(),
                    "peak_mib": round(_peak_mib()),
                    "peak_raised_by": self._raised,
                }
            )
        handed = getattr(self._config, "workeroutput", None)
        if handed is not None:
            handed["costs"] = self._workers
        elif self._workers:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(self._report(), indent=2) + "\n")

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take the sums of a worker."""
        self._workers += getattr(node, "workeroutput", {}).get("costs", [])

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the sums."""
        if not self._workers:
            return
        report = self._report()
        terminalreporter.section(f"costs, also in {self._path}")
        for folder, (tests, wall, cpu) in report["folders"].items():
            terminalreporter.write_line(
                f"{folder:<26} {tests:5.0f} tests {wall:8.1f} s {cpu:8.1f} CPU s"
            )
        terminalreporter.write_line(
            f"wall {report['wall_s']:.0f} s, CPU {report['cpu_s']:.0f} s, "
            f"peak memory {max(report['peak_mib'])} MiB"
        )

    def _report(self) -> dict[str, Any]:
        """Return the sums of all workers."""
        folders: dict[str, list[float]] = {}
        for worker in self._workers:
            for folder, sums in worker["folders"].items():
                before = folders.get(folder, [0, 0.0, 0.0])
                folders[folder] = [round(a + b, 2) for a, b in zip(before, sums, strict=True)]
        return {
            "wall_s": round(time.monotonic() - self._began, 1),
            "cpu_s": round(sum(worker["cpu"] for worker in self._workers), 1),
            "peak_mib": [worker["peak_mib"] for worker in self._workers],
            "peak_raised_by": [worker["peak_raised_by"] for worker in self._workers],
            "folders": dict(sorted(folders.items(), key=lambda entry: -entry[1][2])),
        }


def _cpu_seconds() -> float:
    """Return the CPU time of this process and of the programs it started and waited for."""
    parts = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    usages = [resource.getrusage(part) for part in parts]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _peak_mib() -> float:
    """Return the most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
