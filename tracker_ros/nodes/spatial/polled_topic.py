# SPDX-License-Identifier: Apache-2.0
"""Subscriptions whose messages wait in the middleware until they are wanted.

rclpy's executor looks at everything in the node whenever a single message comes, which takes half
a millisecond in this one. What is needed only beside an image is therefore not waited for.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions

__all__ = ["PolledTopic"]


class _NeverWaitedFor(ReentrantCallbackGroup):
    """Keeps the executor from waiting for a subscription and for its QoS events.

    With Fast DDS, a wait for the events alone ends at once while messages have not been taken.
    """

    def can_execute(self, entity: Any) -> bool:
        """Return False: the executor waits for nothing in this group."""
        return False


class PolledTopic:
    """A subscription whose messages are taken with `take`, in any thread.

    Args:
        node: The node, or its part for one camera.
        kind: Type of the messages.
        topic: Name of the topic.
        qos: Its depth says how many messages may wait; newer ones replace older ones.
        raw: Whether messages are taken as bytes (CDR, as all middlewares of ROS send them).
    """

    def __init__(
        self, node: Node, kind: type, topic: str, qos: QoSProfile, raw: bool = False
    ) -> None:
        self._node = node
        self._lock = threading.Lock()  # between `take` and `close`
        self._subscription: Any = node.create_subscription(
            kind,
            topic,
            lambda message: None,
            qos,
            callback_group=_NeverWaitedFor(),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            raw=raw,
        )

    def take(self) -> list[Any]:
        """Return the messages that have come since the last call, oldest first."""
        with self._lock:
            source = self._subscription
            if source is None:
                return []
            with source.handle:
                take = partial(source.handle.take_message, source.msg_type, source.raw)
                return [message for message, _ in iter(take, None)]

    def close(self) -> None:
        """Unsubscribe; `take` returns nothing any more."""
        with self._lock:
            if self._subscription is not None:
                self._node.destroy_subscription(self._subscription)
                self._subscription = None
