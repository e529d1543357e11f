# SPDX-License-Identifier: Apache-2.0
"""A node seen from a sub-namespace, as rclcpp's ``create_sub_node`` gives it; rclpy has none."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node

__all__ = ["SubNode"]


class SubNode:
    """Creates topics and services of a node below a name; everything else is the node's.

    Relative names are put below the name: ``target`` becomes ``front/target``. Absolute and
    private names stay. Lines in the log are those of a child logger with this name.

    Args:
        node: The node, to which all that is created belongs.
        name: The sub-namespace.
    """

    def __init__(self, node: Node, name: str) -> None:
        self._node = node
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._node, attribute)

    def _below(self, name: str) -> str:
        return name if name.startswith(("/", "~")) else f"{self._name}/{name}"

    def get_logger(self) -> Any:
        """Return the logger ``<node>.<name>``."""
        return self._node.get_logger().get_child(self._name)

    def resolve_topic_name(self, topic: str) -> str:
        """Return the full name of a topic."""
        return str(self._node.resolve_topic_name(self._below(topic)))

    def resolve_service_name(self, service: str) -> str:
        """Return the full name of a service."""
        return str(self._node.resolve_service_name(self._below(service)))

    def create_publisher(self, kind: type, topic: str, *args: Any, **options: Any) -> Any:
        """Create a publisher; see ``Node.create_publisher``."""
        return self._node.create_publisher(kind, self._below(topic), *args, **options)

    def create_lifecycle_publisher(
        self, kind: type, topic: str, *args: Any, **options: Any
    ) -> Any:
        """Create a publisher that the node's lifecycle manages."""
        return self._node.create_lifecycle_publisher(kind, self._below(topic), *args, **options)

    def create_subscription(self, kind: type, topic: str, *args: Any, **options: Any) -> Any:
        """Create a subscription; see ``Node.create_subscription``."""
        return self._node.create_subscription(kind, self._below(topic), *args, **options)

    def create_service(self, kind: type, service: str, *args: Any, **options: Any) -> Any:
        """Create a service; see ``Node.create_service``."""
        return self._node.create_service(kind, self._below(service), *args, **options)
