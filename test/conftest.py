# SPDX-License-Identifier: Apache-2.0
"""What all tests share: a ROS domain of their own, and when the marked ones run.

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

from tools.harness.domain import private_domain


def pytest_configure(config: pytest.Config) -> None:
    """Keep the nodes under test apart from every other node on this host and in the network."""
    domain = ExitStack()
    domain.enter_context(private_domain())
    config.add_cleanup(domain.close)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> object:
    """Leave only launch tests to launch_testing's plug-in.

    To see whether a module is one, the plug-in imports it under its bare file name, where two
    files of one name in two folders collide.
    """
    if b"generate_test_description" in module_path.read_bytes():
        return None
    return pytest.Module.from_parent(parent, path=module_path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none, asking torch only if there is such a test."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not _cuda_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


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
