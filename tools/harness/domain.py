# SPDX-License-Identifier: Apache-2.0
"""Reserve a ROS domain that no other demo, benchmark or test process on this host uses."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

FIRST_PORT = 22119
"""TCP port FIRST_PORT + id stays bound as long as a process uses that domain id."""


@contextmanager
def private_domain() -> Iterator[int]:
    """Set `ROS_DOMAIN_ID` to a free id from 1 to 99 and reserve it until the block ends.

    The kernel gives a port to one process only, so processes that start at the same moment, such
    as the workers of a parallel test run, never get the same id. It frees the port when a process
    ends, however it ends.

    Raises:
        RuntimeError: All ids are taken.
    """
    before = os.environ.get("ROS_DOMAIN_ID")
    for offset in range(99):
        domain = (os.getpid() + offset) % 99 + 1
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as reserved:
            try:
                reserved.bind(("127.0.0.1", FIRST_PORT + domain))
            except OSError:
                continue
            os.environ["ROS_DOMAIN_ID"] = str(domain)
            try:
                yield domain
            finally:
                os.environ.pop("ROS_DOMAIN_ID")
                if before is not None:
                    os.environ["ROS_DOMAIN_ID"] = before
            return
    raise RuntimeError(
        f"no free ROS domain id: TCP ports {FIRST_PORT + 1} to {FIRST_PORT + 99} of this host are "
        "all taken, expected one free; end other demos and test runs"
    )
