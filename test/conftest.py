# SPDX-License-Identifier: Apache-2.0
"""What all tests share: one thread, a ROS domain per test process, and when marked tests run.

Tests marked ``ros`` are never skipped: the development environment has ROS, and where it is
missing they fail. Tests marked ``gpu`` are skipped where there is no CUDA device.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from costs import Costs

from tools.harness.domain import private_domain

# Set before torch is imported, and inherited by the programs that tests start: on networks as
# small as those of most tests a second thread mostly waits, and waiting costs CPU time.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
    os.environ.setdefault(_variable, "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--costs``."""
    text = "write and print wall and CPU seconds per folder of tests"
    parser.addoption("--costs", type=Path, metavar="FILE", help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Give each test process a ROS domain of its own, on this host only."""
    domain = ExitStack()
    domain.enter_context(private_domain())
    config.add_cleanup(domain.close)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    if path := config.getoption("costs"):
        config.pluginmanager.register(Costs(config, path), "costs")


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> object:
    """Leave only launch tests to launch_testing's plug-in.

    To see whether a module is one, the plug-in imports it under its bare file name, where two
    files of one name in two folders collide.
    """
    if b"generate_test_description" in module_path.read_bytes():
        return None
    return pytest.Module.from_parent(parent, path=module_path)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group and order tests for pytest-xdist; skip those that need a GPU where there is none.

    Tests of one file share fixtures, so one process runs them all. The same holds for the tests
    that share a tracker node. Slow groups come first, so that no process is left alone with one.
    """
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        shared = "tracker_process" in getattr(item, "fixturenames", ())
        group = "tracker node" if shared else item.nodeid.split("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))
        groups.setdefault(group, []).append(item)
    slow = {
        name for name, each in groups.items() if any(i.get_closest_marker("slow") for i in each)
    }
    items.sort(key=lambda item: item.get_closest_marker("xdist_group").args[0] not in slow)
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not _cuda_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def shared_engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of engines for this test run: what one test exports, the others find.

    All test processes of a run share it. Tests of the export itself use a folder of their own.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    return folder / "engines"


@pytest.fixture(scope="session")
def random_weights() -> Callable[[str], Any]:
    """Makes values of a sensible size for every key of a model, the same at every call."""
    from tools.benchmarks.workloads import random_weights

    return random_weights


def _cuda_available() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()
