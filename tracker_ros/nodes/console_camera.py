# SPDX-License-Identifier: Apache-2.0
"""One camera on the console: what its tracker publishes becomes pictures and states."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import Detection2DArray

from tracker_interfaces.msg import TargetDirectionArray, TargetStatus, TargetStatusArray
from tracker_ros.console.encoders import PictureEncoder, encode_jpeg, shrink
from tracker_ros.console.hub import Hub, Picture
from tracker_ros.console.pairing import FramePairing
from tracker_ros.following.target_state import VISIBLE, Doubt, TargetState
from tracker_ros.io.image_decoder import ImageDecoder
from tracker_ros.io.image_encodings import MalformedImageError, UnsupportedEncodingError
from tracker_ros.nodes.console_commands import TrackerCommands
from tracker_ros.nodes.image_input import whole_images
from tracker_ros.nodes.messages import box_of, keep_last, rgb_from_image, stamp_nanoseconds
from tracker_ros.nodes.parameters import ParameterTable

__all__ = ["ConsoleCamera"]

_STATUS_PATIENCE_S = 0.5
_FATES = ("received", "tracked", "dropped")


class ConsoleCamera:
    """Subscribes to a tracker's topics and asks its services.

    A picture is shown when the tracker has said what it saw in it, with those boxes. If the
    tracker says nothing for half a second, the picture is shown without boxes.

    Args:
        node: The console's node.
        name: Name of the camera, which is the tracker's namespace; empty for the node's own.
        hub: Where pictures and states go.
        table: The console's parameters.

    Attributes:
        carry_out: Asks the tracker for what a viewer wants.
    """

    def __init__(self, node: Node, name: str, hub: Hub, table: ParameterTable) -> None:
        self.name = name
        self._node = node
        self._hub = hub
        self._interval_s = 1.0 / table.number("max_rate")
        self._transport = table.text("image_transport")
        self._pictures = PictureEncoder(
            hub,
            f"{name}/image",
            table.integer("max_width"),
            table.integer("jpeg_quality"),
            table.integer("video_bitrate") * 1000,
        )
        self._decoder = ImageDecoder(encoding_override=table.text("encoding_override"))
        self._frames: FramePairing[Image | CompressedImage, list[dict[str, Any]]] = FramePairing()
        self._directions: TargetDirectionArray | None = None
        self._shown_s = self._image_s = self._status_s = float("-inf")
        self._video: list[Subscription] = []
        node.create_subscription(
            TargetStatusArray, self._topic("target_statuses"), self._on_statuses,
            keep_last(1, latched=True),
        )  # fmt: skip
        commands = TrackerCommands(
            node, self._topic, lambda on: hub.offer_state("paused", name, {"on": on})
        )
        self.carry_out: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]] = commands.carry_out

    def watch(self, watched: bool) -> None:
        """Subscribe to pictures while somebody looks at them."""
        for subscription in self._video:
            self._node.destroy_subscription(subscription)
        self._video = []
        self._frames.clear()
        if not watched:
            return
        images, topic = whole_images(self._node, self._transport, self._topic("image"))
        others: tuple[tuple[type, str, Callable[[Any], None]], ...] = (
            (Image, "debug/score", self._on_score),
            (Detection2DArray, "targets", self._on_targets),
            (TargetDirectionArray, "target_directions", self._on_directions),
        )
        subscribe = self._node.create_subscription
        self._video = [
            subscribe(images, topic, self._on_image, keep_last(1, reliable=False)),
            *(subscribe(kind, self._topic(n), call, keep_last(1)) for kind, n, call in others),
        ]

    def report_health(self) -> None:
        """Tell viewers how old the last image and the last status are, and show what is left."""
        now = time.monotonic()
        ages = {
            "image_age": _age(now, self._image_s) if self._video else None,
            "status_age": _age(now, self._status_s),
        }
        self._hub.offer_state("health", self.name, ages)
        if now - self._status_s > _STATUS_PATIENCE_S:
            newest = self._frames.pop_newest()
            if newest is not None:
                self._show(*newest, [])

    def _topic(self, name: str) -> str:
        return f"{self.name}/{name}" if self.name else name

    def _on_image(self, message: Image | CompressedImage) -> None:
        self._image_s = time.monotonic()
        self._frames.add_image(stamp_nanoseconds(message.header), message)
        self._show_complete()

    def _on_targets(self, message: Detection2DArray) -> None:
        boxes = [{"id": d.id, "box": box_of(d.bbox)} for d in message.detections]
        self._frames.add_boxes(stamp_nanoseconds(message.header), boxes)
        self._show_complete()

    def _on_directions(self, message: TargetDirectionArray) -> None:
        self._directions = message

    def _on_statuses(self, message: TargetStatusArray) -> None:
        """Tell the states, and show the picture that they belong to, with its boxes."""
        self._status_s = time.monotonic()
        directions = {
            direction.target_id: direction
            for direction in (self._directions.directions if self._directions else ())
        }
        targets = [_status_facts(s, directions.get(s.target_id)) for s in message.statuses]
        counts = {fate: int(getattr(message, f"frames_{fate}")) for fate in _FATES}
        stamp_ns = stamp_nanoseconds(message.header)
        state = {"stamp": str(stamp_ns), "targets": targets, "frames": counts}
        self._hub.offer_state("targets", self.name, state)
        visible = any(TargetState(status.state) in VISIBLE for status in message.statuses)
        self._frames.add_status(stamp_ns, has_boxes=visible)
        self._show_complete()

    def _show_complete(self) -> None:
        frame = self._frames.pop_complete()
        if frame is not None:
            stamp_ns, image, boxes = frame
            self._show(stamp_ns, image, boxes or [])

    def _show(
        self, stamp_ns: int, message: Image | CompressedImage, boxes: list[dict[str, Any]]
    ) -> None:
        """Encode a picture for the viewers, unless the last one was shown a moment ago."""
        now = time.monotonic()
        if not self._video or now - self._shown_s < 0.9 * self._interval_s:
            return
        pixels = self._decode("image", message, self._decoder)
        if pixels is None:
            return
        facts = {
            "camera": self.name,
            "stamp": str(stamp_ns),  # too large for JavaScript's numbers
            "frame_id": message.header.frame_id,
            "width": pixels.shape[1],
            "height": pixels.shape[0],
            "boxes": boxes,
        }
        self._pictures.show(pixels, facts)
        self._shown_s = now

    def _on_score(self, message: Image) -> None:
        pixels = self._decode("debug/score", message)
        if pixels is not None:
            jpeg = encode_jpeg(shrink(pixels, self._pictures.max_width), self._pictures.quality)
            self._hub.offer_picture(Picture(f"{self.name}/score", jpeg, {"camera": self.name}))

    def _decode(
        self, topic: str, message: Image | CompressedImage, decoder: ImageDecoder | None = None
    ) -> np.ndarray | None:
        try:
            return rgb_from_image(message, decoder)
        except (MalformedImageError, UnsupportedEncodingError) as error:
            self._node.get_logger().warning(
                f"{self._topic(topic)} is not shown: {error}", throttle_duration_sec=10.0
            )
            return None


def _age(now_s: float, then_s: float) -> float | None:
    """Return the seconds since then, or None if it never was."""
    return None if then_s == float("-inf") else round(now_s - then_s, 2)


def _status_facts(status: TargetStatus, direction: Any) -> dict[str, Any]:
    """Return what viewers are told of a target, as JSON values."""
    facts: dict[str, Any] = {
        "id": status.target_id,
        "label": status.label,
        "state": TargetState(status.state).name,
        "score": round(float(status.score), 4),
        "doubt": Doubt(status.doubt).name.lower().replace("_", " ") if status.doubt else "",
        "seconds_since_seen": round(float(status.seconds_since_seen), 2),
        "latency": round(float(status.latency), 4),
    }
    if direction is not None:
        facts["azimuth"] = float(direction.azimuth)
        facts["elevation"] = float(direction.elevation)
        for rate in ("azimuth_rate", "elevation_rate"):
            if np.isfinite(getattr(direction, rate)):
                facts[rate] = float(getattr(direction, rate))
        if np.isfinite(direction.distance):
            facts["distance"] = float(direction.distance)
    return facts
