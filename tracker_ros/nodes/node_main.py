# SPDX-License-Identifier: Apache-2.0
"""Start a node, spin it, and end it without a traceback on Ctrl-C.

Refuses lifecycle transitions that do not begin in the present state.

rclpy lets the error of such a request, as of one that comes twice, out of its service, and that
ends the program without an answer.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable

import rclpy
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import Node as LifecycleNode
from rclpy.logging import get_logger
from rclpy.node import Node

from tracker_ros.process import SLEEPING, set_waiting

__all__ = ["NodeStartError", "end_quietly_on_interrupt", "refuse_wrong_transitions", "run_node"]


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
    set_waiting(SLEEPING)
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


Answer = Callable[[ChangeState.Request, ChangeState.Response], ChangeState.Response]


def refuse_wrong_transitions(node: LifecycleNode) -> None:
    """Have the node answer such a request with ``success: false``."""
    for service in node.services:
        if service.srv_type is ChangeState:
            service.callback = _guarded(node, service.callback)


def _guarded(node: LifecycleNode, change: Answer) -> Answer:
    """The service's callback, which refuses where rclpy raises."""

    def answer(
        request: ChangeState.Request, response: ChangeState.Response
    ) -> ChangeState.Response:
        try:
            return change(request, response)
        except RuntimeError as error:  # RCLError, which rclpy does not export
            wanted = request.transition.label or request.transition.id
            node.get_logger().warning(f"transition {wanted} refused in the present state: {error}")
            response.success = False
            return response

    return answer
