# SPDX-License-Identifier: Apache-2.0
"""The camera's images as they are sent: raw, compressed, or as packets of a video stream.

As image_transport does, a transport adds its name to the topic: ``image/compressed``. A topic that
carries such messages itself is taken too, so ``image`` may be remapped to either.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from tracker_ros.nodes.messages import keep_last

__all__ = [
    "TRANSPORTS",
    "ImageInput",
    "describe_other_transports",
    "installed_kind",
    "message_class",
    "whole_images",
]

TRANSPORTS: dict[str, tuple[str, ...]] = {
    "raw": ("sensor_msgs/msg/Image",),
    "compressed": ("sensor_msgs/msg/CompressedImage",),
    "ffmpeg": (
        "ffmpeg_image_transport_msgs/msg/FFMPEGPacket",
        "foxglove_msgs/msg/CompressedVideo",
    ),
}
"""The values of ``image_transport`` and the types of their messages, the usual one first."""

_SUFFIX = {"raw": "", "compressed": "/compressed", "ffmpeg": "/ffmpeg"}
_PACKETS = 64  # a lost packet costs all images until the next key frame
_SEARCH_S = 0.5


@dataclass(frozen=True)
class _Offer:
    """A topic with images, the type of its messages, and whether every publisher is reliable."""

    topic: str
    kind: str
    reliable: bool


def message_class(kind: str) -> type:
    """Import the class of a message, ``package/msg/Name``.

    Raises:
        ImportError: Its package is not installed; names the one to install.
    """
    package, _, name = kind.split("/")
    try:
        found: type = getattr(importlib.import_module(f"{package}.msg"), name)
    except ImportError as error:
        raise ImportError(
            f"{kind} needs the package {package} ({error}): "
            f"apt install ros-$ROS_DISTRO-{package.replace('_', '-')}"
        ) from error
    return found


def installed_kind(transport: str) -> str:
    """Return the type of a transport's messages: the first that is installed, else the first."""
    for kind in TRANSPORTS[transport]:
        with contextlib.suppress(ImportError):
            message_class(kind)
            return kind
    return TRANSPORTS[transport][0]


def whole_images(node: Node, transport: str, topic: str = "image") -> tuple[type, str]:
    """Return type and name of a topic whose messages are images, ``raw`` or ``compressed``."""
    kind = {"raw": Image, "compressed": CompressedImage}[transport]
    return kind, node.resolve_topic_name(topic) + _SUFFIX[transport]


def _offers(node: Node, transport: str, topic: str) -> list[_Offer]:
    """Return what is published for a transport of the image topic, and on that topic itself."""
    found = []
    for name in dict.fromkeys((topic + _SUFFIX[transport], topic)):
        publishers = node.get_publishers_info_by_topic(name)
        for kind in TRANSPORTS[transport]:
            same = [p.qos_profile.reliability for p in publishers if p.topic_type == kind]
            if same:
                reliable = all(policy is ReliabilityPolicy.RELIABLE for policy in same)
                found.append(_Offer(name, kind, reliable))
    return found


def describe_other_transports(
    node: Node, transport: str, topic: str, setting: str = "image_transport:="
) -> str:
    """Return which other transports the images come by; empty if they come by none.

    `setting` is what a user writes before the name of a transport.
    """
    return "; ".join(
        f"{offer.kind} is published on {offer.topic}: set {setting}{other}"
        for other in TRANSPORTS
        if other != transport
        for offer in _offers(node, other, topic)
    )


class ImageInput:
    """Subscribes to the images of a camera in the form that a transport names.

    A video stream has two types of messages, and a topic two places: the graph is asked which, for
    as long as no image has come.

    Args:
        node: The node.
        transport: A name in `TRANSPORTS`.
        receive: Called with each message.
        subscribed: Called with the topic and its quality of service when they are known, and
            again when they change.

    Raises:
        ImportError: The messages of this transport are not installed.
    """

    def __init__(
        self,
        node: Node,
        transport: str,
        receive: Callable[[Any], None],
        subscribed: Callable[[str, QoSProfile], None] = lambda topic, qos: None,
    ) -> None:
        self._node = node
        self._transport = transport
        self._receive = receive
        self._subscribed = subscribed
        self._base = node.resolve_topic_name("image")
        self._subscription: Subscription | None = None
        self._offer = _Offer(self._base + _SUFFIX[transport], installed_kind(transport), False)
        self._failed: set[str] = set()
        found = _offers(node, transport, self._base)
        self._subscribe(found[0] if found else self._offer)
        self._timer = node.create_timer(
            _SEARCH_S, self._search, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        if transport == "raw":
            self._timer.cancel()

    @property
    def topic(self) -> str:
        """The topic that is subscribed to."""
        return self._offer.topic

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_timer(self._timer)
        self._unsubscribe()

    def _search(self) -> None:
        """Subscribe to what is published, if that is something else."""
        found = _offers(self._node, self._transport, self._base)
        if not found or self._offer in found or found[0].kind in self._failed:
            return
        try:
            self._subscribe(found[0])
        except ImportError as error:
            self._failed.add(found[0].kind)
            self._node.get_logger().error(str(error))

    def _subscribe(self, offer: _Offer) -> None:
        kind = message_class(offer.kind)
        self._unsubscribe()
        packets = self._transport == "ffmpeg"
        qos = keep_last(_PACKETS if packets else 1, reliable=packets and offer.reliable)
        self._subscription = self._node.create_subscription(
            kind,
            offer.topic,
            self._on_image,
            qos,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self._offer = offer
        self._subscribed(offer.topic, qos)

    def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def _on_image(self, message: Any) -> None:
        self._timer.cancel()
        self._receive(message)
