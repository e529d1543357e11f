# SPDX-License-Identifier: Apache-2.0
"""A DDS domain that no other demo or test run on this host uses."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

FIRST_PORT = 22119
"""TCP port FIRST_PORT + id is held for as long as a run uses that domain id."""


@contextmanager
def private_domain() -> Iterator[int]:
    """Set `ROS_DOMAIN_ID` to a free id from 1 to 99, held until the block ends.

    Raises:
        RuntimeError: All of them are taken.
    """
    for offset in range(99):
        domain = (os.getpid() + offset) % 99 + 1
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as held:
            try:
                held.bind(("127.0.0.1", FIRST_PORT + domain))
            except OSError:
                continue
            os.environ["ROS_DOMAIN_ID"] = str(domain)
            yield domain
            return
    raise RuntimeError(
        f"no free ROS domain id: TCP ports {FIRST_PORT + 1} to {FIRST_PORT + 99} of this host are "
        "all taken, expected one free; end other demos and test runs"
    )
