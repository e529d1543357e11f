# SPDX-License-Identifier: Apache-2.0
"""Refuses lifecycle transitions that do not begin in the present state.

rclpy lets the error of such a request, as of one that comes twice, out of its service, and that
ends the program without an answer.
"""

from __future__ import annotations

from collections.abc import Callable

from lifecycle_msgs.srv import ChangeState
from rclpy.lifecycle import Node as LifecycleNode

__all__ = ["refuse_wrong_transitions"]

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
