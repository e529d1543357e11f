# SPDX-License-Identifier: Apache-2.0
"""Start a node, spin it, and end it without a traceback on Ctrl-C."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node

__all__ = ["NodeStartError", "end_quietly_on_interrupt", "run_node"]


class NodeStartError(RuntimeError):
    """The node cannot start or go on; the message says why and what to do."""


class _ToRos(logging.Handler):
    """Passes what the package logs through Python on to ROS."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = get_logger("tracker_ros")
        text = self.format(record)
        if record.levelno >= logging.ERROR:
            logger.error(text)
        elif record.levelno >= logging.WARNING:
            logger.warning(text)
        else:
            logger.info(text)


def end_quietly_on_interrupt() -> None:
    """Let Ctrl-C end ROS, and thereby ``spin``, instead of raising at any odd place.

    rclpy shuts its context down at SIGINT and then calls Python's handler. The one that comes
    with Python raises KeyboardInterrupt wherever the program happens to be, often in the middle
    of cleaning up. Call this before ``rclpy.init``.
    """
    signal.signal(signal.SIGINT, lambda number, frame: None)


def run_node(factory: Callable[[], Node], args: list[str] | None = None) -> int:
    """Make a node and spin it until it is told to stop.

    Works alike from Humble on: no context managers of later distributions are used.

    Args:
        factory: Makes the node. If the node has a method ``close``, it is called before the
            node is destroyed.
        args: Command line, ``sys.argv`` if None.

    Returns:
        Exit status: 0 after Ctrl-C, SIGTERM or a shutdown; 1 if the node could not start or
        could not go on.
    """
    end_quietly_on_interrupt()
    rclpy.init(args=args)
    package = logging.getLogger("tracker_ros")
    handler = _ToRos(logging.INFO)
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    node: Node | None = None
    executor = SingleThreadedExecutor()
    status = 0
    try:
        node = factory()
        executor.add_node(node)
        executor.spin()
    except ExternalShutdownException:
        status = 0
    except NodeStartError as error:
        get_logger("tracker_ros").fatal(str(error))
        status = 1
    except Exception:  # what was being done when the context was shut down fails; no fault
        if rclpy.ok():
            raise
    finally:
        package.removeHandler(handler)
        if node is not None:
            executor.remove_node(node)
            getattr(node, "close", lambda: None)()
            node.destroy_node()
        executor.shutdown(timeout_sec=1.0)
        if rclpy.ok():
            rclpy.shutdown()
    return status
