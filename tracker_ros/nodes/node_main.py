# SPDX-License-Identifier: Apache-2.0
"""Run a node: start, spin, end without a traceback on Ctrl-C, survive impossible transitions."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

import rclpy
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import Node as LifecycleNode
from rclpy.logging import LoggingSeverity, get_logger
from rclpy.node import Node

from tracker_ros.process import SLEEPING, set_waiting

__all__ = [
    "NodeStartError",
    "end_quietly_on_interrupt",
    "exit_program",
    "refuse_wrong_transitions",
    "run_node",
]


class NodeStartError(RuntimeError):
    """A node cannot start or continue; the message says why and what to do."""


class _ToRos(logging.Handler):
    """Passes the package's Python log messages to ROS; both number severities alike."""

    def emit(self, record: logging.LogRecord) -> None:
        get_logger("tracker_ros").log(self.format(record), LoggingSeverity(record.levelno))


def end_quietly_on_interrupt() -> None:
    """Make Ctrl-C end ``spin`` instead of raising KeyboardInterrupt anywhere in the program.

    rclpy shuts its context down at SIGINT and then calls Python's own handler, which raises
    wherever the program happens to be, often while it cleans up. Call this before ``rclpy.init``.
    """
    signal.signal(signal.SIGINT, lambda number, frame: None)


def run_node(factory: Callable[[], Node], args: list[str] | None = None) -> int:
    """Make a node and spin it until it is told to stop.

    Works on Humble and later: no context managers of later distributions are used.

    Args:
        factory: Makes the node, whose method ``close`` is called in the end, if it has one.
        args: Command line, ``sys.argv`` if None.

    Returns:
        Exit status: 0 after Ctrl-C, SIGTERM or a shutdown; 1 if the node could not start or
        continue.
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
        pass
    except NodeStartError as error:
        get_logger("tracker_ros").fatal(str(error))
        status = 1
    except Exception:  # a shutdown makes whatever is going on fail
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


def exit_program(status: int) -> NoReturn:
    """End this process.

    A worker that could not be stopped in time may still be computing. The interpreter would abort
    if it ended beside such a thread, so it is left out then.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    if any(thread.daemon for thread in threading.enumerate()):
        os._exit(status)
    sys.exit(status)


def refuse_wrong_transitions(node: LifecycleNode) -> None:
    """Make a node answer impossible lifecycle transitions with ``success: false``.

    rclpy does not catch the error of a transition that is impossible in the present state, for
    example one that is requested twice. That would end the program without an answer.
    """
    (service,) = (s for s in node.services if s.srv_type is ChangeState)
    change = service.callback

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

    service.callback = answer
