# SPDX-License-Identifier: Apache-2.0
"""What all tests share: a ROS domain of their own, and when the marked ones run.

Tests marked ``ros`` are never skipped: the development environment has ROS, and where it is
missing they fail. Tests marked ``gpu`` are skipped where there is no CUDA device.
"""

from __future__ import annotations

import importlib.util
import os
import socket

import pytest

FIRST_PORT = 22119  # one TCP port for each domain id, held for as long as the tests run


def reserve_domain_id() -> tuple[int, socket.socket]:
    """Return a DDS domain id from 1 to 99 that no other test run on this host holds.

    The id belongs to the caller for as long as the returned socket lives.

    Raises:
        RuntimeError: All of them are taken.
    """
    start = os.getpid()
    for offset in range(99):
        domain_id = (start + offset) % 99 + 1
        held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            held.bind(("127.0.0.1", FIRST_PORT + domain_id))
        except OSError:
            held.close()
            continue
        return domain_id, held
    raise RuntimeError(
        f"no free ROS domain id: TCP ports {FIRST_PORT + 1} to {FIRST_PORT + 99} of this host are "
        "all taken, expected one free; end other test runs"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Keep the nodes under test apart from every other node on this host and in the network."""
    domain_id, held = reserve_domain_id()
    config.add_cleanup(held.close)
    os.environ["ROS_DOMAIN_ID"] = str(domain_id)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none, asking torch only if there is such a test."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not _cuda_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _cuda_available() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()
