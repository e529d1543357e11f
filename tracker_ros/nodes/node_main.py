# SPDX-License-Identifier: Apache-2.0
"""Run a node: start, spin, end in time and in silence, survive impossible transitions."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

import rclpy
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import Node as LifecycleNode
from rclpy.logging import LoggingSeverity, get_logger
from rclpy.node import Node

from tracker_ros.process import END_SIGNALS, SLEEPING, end_suddenly, set_waiting

__all__ = [
    "NodeFault",
    "NodeStartError",
    "end_in_time",
    "exit_program",
    "refuse_wrong_transitions",
    "run_node",
    "start_ros",
]


END_S = 0.8
"""Seconds that a program has to end in order after a signal."""


class NodeStartError(RuntimeError):
    """A node cannot start or continue; the message says why and what to do.

    Attributes:
        status: The exit status of the program.
    """

    status = 1


class NodeFault(NodeStartError):
    """A node has failed on its way; another start may help."""

    status = os.EX_SOFTWARE


class _ToRos(logging.Handler):
    """Passes the package's Python log messages to ROS; both number severities alike."""

    def emit(self, record: logging.LogRecord) -> None:
        get_logger("tracker_ros").log(self.format(record), LoggingSeverity(record.levelno))


def end_in_time(status: int = 0) -> None:
    """Make SIGINT and SIGTERM end the program: in order, or suddenly if that takes too long.

    rclpy shuts its context down at these signals, which ends ``spin``, and then calls Python's own
    handler. By default that raises KeyboardInterrupt wherever the program happens to be, often
    while it cleans up; here it does nothing. A thread of its own ends the process after `END_S`
    with `status`, even if the main thread waits or is in native code by then. Call this before
    ``rclpy.init``.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # signals are the main program's business
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in END_SIGNALS:
        signal.signal(number, lambda number, frame: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def watch() -> None:
        while os.read(reader, 1)[0] not in END_SIGNALS:
            pass
        time.sleep(END_S)
        end_suddenly(status)

    threading.Thread(target=watch, name="end", daemon=True).start()


def run_node(factory: Callable[[], Node], args: list[str] | None = None) -> int:
    """Make a node and spin it until it is told to stop.

    Works on Humble and later: no context managers of later distributions are used.

    Args:
        factory: Makes the node, whose method ``close`` is called in the end, if it has one.
        args: Command line, ``sys.argv`` if None.

    Returns:
        Exit status: 0 after Ctrl-C, SIGTERM or a shutdown; 1 if the node could not start or
        continue; 70 after a `NodeFault`.
    """
    set_waiting(SLEEPING)
    end_in_time()
    if not start_ros(args):
        return 1
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
        if rclpy.ok():
            get_logger("tracker_ros").fatal(str(error))
            status = error.status
    except Exception:  # a shutdown makes whatever is going on fail
        if rclpy.ok():
            raise
    finally:
        package.removeHandler(handler)
        _close(node, executor)
    return status


def _close(node: Node | None, executor: SingleThreadedExecutor) -> None:
    """Leave the graph in order, so that others notice it at once."""
    ended_by_signal = not rclpy.ok()
    try:
        if node is not None:
            executor.remove_node(node)
            getattr(node, "close", lambda: None)()
            node.destroy_node()
            # rclpy leaves the state machine of a lifecycle node alive, and with it the
            # participant: Fast DDS's shared memory would then stay behind, 35 MB each time.
            vars(node).pop("_state_machine", None)
        executor.shutdown(timeout_sec=1.0)
        if rclpy.ok():
            rclpy.shutdown()
    except Exception:  # parts of ROS that are gone already
        if not ended_by_signal:
            raise


def start_ros(args: list[str] | None) -> bool:
    """Initialize rclpy. Returns False after an error in one line if it cannot start."""
    try:
        rclpy.init(args=args)
    except Exception as error:  # rclpy exports no class of its errors
        reason = " ".join(str(error).split()) or type(error).__name__
        print(
            f"ROS cannot start: {reason[:500]}; check --ros-args, and set ROS_LOG_DIR to a folder "
            "that you may write to",
            file=sys.stderr,
        )
        return False
    return True


def exit_program(status: int) -> NoReturn:
    """End this process.

    A worker that could not be stopped in time may still be computing, and libraries have threads
    of their own. The interpreter might abort beside them, so it is left out.
    """
    end_suddenly(status)


def refuse_wrong_transitions(node: LifecycleNode) -> None:
    """Make a node answer impossible lifecycle transitions with ``success: false``.

    Before Kilted, rclpy does not catch the error of a transition that is impossible in the present
    state, for example one that is requested twice. That would end the program without an answer.
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
