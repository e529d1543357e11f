# SPDX-License-Identifier: Apache-2.0
"""Start a node, spin it, and end it without a traceback on Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node

__all__ = ["NodeStartError", "run_node"]


class NodeStartError(RuntimeError):
    """The node cannot start; the message says why and what to do."""


def run_node(factory: Callable[[], Node], args: list[str] | None = None) -> int:
    """Make a node and spin it until it is told to stop.

    Works alike from Humble on: no context managers of later distributions are used.

    Args:
        factory: Makes the node. If the node has a method ``close``, it is called before the
            node is destroyed.
        args: Command line, ``sys.argv`` if None.

    Returns:
        Exit status: 0 after Ctrl-C, SIGTERM or a shutdown, 1 if the node could not start.
    """
    rclpy.init(args=args)
    node: Node | None = None
    executor = SingleThreadedExecutor()
    status = 0
    try:
        node = factory()
        executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        status = 0
    except NodeStartError as error:
        get_logger("tracker_ros").fatal(str(error))
        status = 1
    finally:
        _end(node, executor)
    return status


def _end(node: Node | None, executor: SingleThreadedExecutor) -> None:
    """Close and destroy the node; a second Ctrl-C hurries this but prints nothing."""
    try:
        if node is not None:
            executor.remove_node(node)
            getattr(node, "close", lambda: None)()
            node.destroy_node()
        executor.shutdown(timeout_sec=1.0)
    except KeyboardInterrupt:
        get_logger("tracker_ros").warning("interrupted again while stopping")
    finally:
        if rclpy.ok():
            rclpy.shutdown()
