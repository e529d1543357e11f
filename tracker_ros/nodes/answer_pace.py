# SPDX-License-Identifier: Apache-2.0
"""Bound the work of a service, and space out its answers so that no client loses one."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.task import Future

__all__ = ["AnswerPace", "BoundedCallbackGroup"]

_BURST = 8
_PERIOD_S = 0.005


class BoundedCallbackGroup(ReentrantCallbackGroup):
    """Lets only so many requests be handled or wait at once; others stay in the middleware.

    rclpy looks at every request that waits whenever anything happens, so hundreds would be slow.

    Args:
        most: How many.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most
        self._lock = threading.Lock()
        self._begun = 0

    def can_execute(self, entity: Any) -> bool:
        """Return whether one more may begin."""
        return self._begun < self._most

    def beginning_execution(self, entity: Any) -> bool:
        """Note that one begins; returns False if it may not."""
        with self._lock:
            if self._begun >= self._most:
                return False
            self._begun += 1
            return True

    def ending_execution(self, entity: Any) -> None:
        """Note that one has been answered."""
        with self._lock:
            self._begun -= 1


class AnswerPace:
    """Lets a few answers go at once, and then one every five milliseconds.

    With Fast DDS every client of a service receives the answers to all its clients, and drops its
    own if more than the depth of its QoS, 10 by default, arrive before it reads them.

    Args:
        node: The node; its executor must be spinning.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._booked_s = 0.0
        self._waiting: deque[Future] = deque()
        self._timer = node.create_timer(
            _PERIOD_S,
            self._let_one_go,
            ReentrantCallbackGroup(),
            clock=Clock(clock_type=ClockType.STEADY_TIME),
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
