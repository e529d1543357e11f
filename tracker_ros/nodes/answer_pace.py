# SPDX-License-Identifier: Apache-2.0
"""Space out a service's answers, so that no client loses one."""

from __future__ import annotations

import time
from collections import deque

from rclpy.callback_groups import CallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.task import Future

__all__ = ["AnswerPace"]

_BURST = 8
_PERIOD_S = 0.01


class AnswerPace:
    """Lets a few answers go at once, and then one every ten milliseconds.

    With Fast DDS every client of a service receives the answers to all its clients, and drops its
    own if more than the depth of its QoS, 10 by default, arrive before it reads them.

    Args:
        node: The node; its executor must be spinning.
        group: Callback group of the service.
    """

    def __init__(self, node: Node, group: CallbackGroup) -> None:
        self._node = node
        self._booked_s = 0.0
        self._waiting: deque[Future] = deque()
        self._timer = node.create_timer(
            _PERIOD_S, self._let_one_go, group, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._timer.cancel()

    async def turn(self) -> None:
        """Wait until the next answer may go."""
        now = time.monotonic()
        self._booked_s = max(self._booked_s, now - _BURST * _PERIOD_S) + _PERIOD_S
        if self._booked_s <= now and not self._waiting:
            return
        future: Future = Future(executor=self._node.executor)
        self._waiting.append(future)
        self._timer.reset()
        await future

    def _let_one_go(self) -> None:
        if self._waiting:
            self._waiting.popleft().set_result(None)
        if not self._waiting:
            self._timer.cancel()
