# SPDX-License-Identifier: Apache-2.0
"""The ``mavlink_bridge`` node: makes the tracker a MAVLink camera for ground stations.

Threads read the connections; what they read is handled in the executor's thread, as everything
else. The protocol is in `tracker_ros.mavlink`.
"""

from __future__ import annotations

import math
import queue
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import Trigger
from vision_msgs.msg import Detection2D

import tracker_ros
from tracker_interfaces.msg import TargetDirection, TargetStatus
from tracker_interfaces.srv import SelectTarget
from tracker_ros.following.selection import Outcome, SelectionCode
from tracker_ros.following.target_state import TargetState
from tracker_ros.geometry import Box
from tracker_ros.mavlink.camera import CameraComponent, OutcomeAnswer
from tracker_ros.mavlink.camera_messages import CameraSettings
from tracker_ros.mavlink.dialect import load_dialect
from tracker_ros.mavlink.links import Link, LinkError, Peer, open_link
from tracker_ros.mavlink.tracking_messages import TargetPosition, TrackView
from tracker_ros.mavlink.vehicle import rotation_of_angles
from tracker_ros.nodes.image_input import whole_images
from tracker_ros.nodes.messages import (
    bounding_box_of,
    box_of,
    keep_last,
    rgb_from_image,
    stamp_nanoseconds,
)
from tracker_ros.nodes.node_main import NodeStartError, exit_program, run_node
from tracker_ros.nodes.parameters import ParameterTable, Value, check_command_line
from tracker_ros.nodes.robot.parameters import MAVLINK_BRIDGE_PARAMETERS

__all__ = ["MavlinkBridgeNode", "main"]

_TICK_S = 0.05
_PEEK_S = 10.0
_ANSWER_S = 8.0
_LOG_EVERY_S = 10.0
_MAX_UNREAD = 1000
_SHOWN = (TargetState.TRACKING, TargetState.UNCERTAIN)


class MavlinkBridgeNode(Node):
    """A MAVLink camera component in front of the tracker of the same namespace.

    Raises:
        NodeStartError: A parameter is refused, pymavlink is missing, or a connection cannot be
            opened.
    """

    def __init__(self) -> None:
        super().__init__("mavlink_bridge")
        self._logged: dict[str, float] = {}
        self._table = ParameterTable(
            self, MAVLINK_BRIDGE_PARAMETERS, configured=lambda: True, changed=self._apply
        )
        self._video_delay = self._table.number("video_delay")
        self._size: tuple[int, int] | None = None
        self._has_camera_info = False
        self._status: TargetStatus | None = None
        self._status_came = 0.0
        self._box: tuple[int, Box] | None = None
        self._newest_ns = 0
        self._frame_id = ""
        self._waiting: list[tuple[float, Any, Future, OutcomeAnswer]] = []
        self._links = self._open_links()
        settings = self._settings()
        self._camera = CameraComponent(
            settings, self, self._peers, self._complain, time.monotonic()
        )
        self._selector = self.create_client(SelectTarget, "select_target")
        self._clearer = self.create_client(Trigger, "clear_target")
        self._hear(TargetStatus, "target_status", self._on_status, keep_last(1, latched=True))
        self._hear(Detection2D, "target", self._on_target, keep_last(1))
        self._hear(CameraInfo, "camera_info", self._on_camera_info, keep_last(1, reliable=False))
        if settings.geo_status or settings.target_relative:
            self._hear(TargetDirection, "target_direction", self._on_direction, keep_last(1))
        self._peeking: Any = None
        self._images = whole_images(self, self._table.text("image_transport"))
        self._unread: queue.Queue[tuple[Link, bytes, Any]] = queue.Queue(_MAX_UNREAD)
        self._wake = self.create_guard_condition(self._read)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_TICK_S, self._tick, clock=steady)
        self.create_timer(1.0, self._housekeep, clock=steady)
        self._next_peek = time.monotonic() + 1.0
        for link in self._links:
            link.start(self._arrived)
        self.get_logger().info(
            f"MAVLink camera {settings.system_id}/{settings.component_id} on "
            + ", ".join(link.name for link in self._links)
        )

    def close(self) -> None:
        """Close the connections."""
        for link in self._links:
            link.close()

    def select(self, box: Box, answer: OutcomeAnswer) -> None:
        """Have the tracker follow a box on the image that the operator saw."""
        request = SelectTarget.Request(bbox=bounding_box_of(box))
        request.header.frame_id = self._frame_id
        seen_ns = self._newest_ns
        if self._video_delay and seen_ns:
            since = min(time.monotonic() - self._status_came, self._video_delay)
            seen_ns -= round((self._video_delay - since) * 1e9)
        request.header.stamp.sec, request.header.stamp.nanosec = divmod(
            max(seen_ns, 0), 1_000_000_000
        )
        self._call(self._selector, request, answer)

    def clear(self, answer: OutcomeAnswer) -> None:
        """Have the tracker follow nothing."""
        self._call(self._clearer, Trigger.Request(), answer)

    def _apply(self, values: Mapping[str, Value]) -> None:
        self._video_delay = float(values["video_delay"])

    def _hear(self, kind: type, topic: str, callback: Callable[[Any], None], qos: Any) -> Any:
        return self.create_subscription(
            kind,
            topic,
            callback,
            qos,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def _open_links(self) -> list[Link]:
        ids = self._table.integer("system_id"), self._table.integer("component_id")
        links: list[Link] = []
        try:
            load_dialect()
            for text in self._table.text("connections").split():
                links.append(open_link(text, *ids, self._complain))
        except (ImportError, LinkError) as error:
            for link in links:
                link.close()
            raise NodeStartError(str(error)) from error
        if not links:
            raise NodeStartError(
                "parameter connections is empty, expected for example udpin:0.0.0.0:14550"
            )
        return links

    def _settings(self) -> CameraSettings:
        table = self._table
        angles = (
            math.radians(table.number(f"camera_{name}")) for name in ("roll", "pitch", "yaw")
        )
        major, minor, patch = (int(part) for part in tracker_ros.__version__.split(".")[:3])
        return CameraSettings(
            system_id=table.integer("system_id"),
            component_id=table.integer("component_id"),
            model=self.get_fully_qualified_name().strip("/"),
            version=(major, minor, patch),
            default_rate=table.number("default_rate"),
            point_size=table.number("point_size"),
            geo_status=table.flag("geo_status"),
            target_relative=table.flag("target_relative"),
            mount=rotation_of_angles(*angles),
        )

    def _peers(self) -> list[Peer]:
        return [peer for link in self._links for peer in list(link.peers.values())]

    def _complain(self, text: str) -> None:
        """Log a problem, each kind at most every ten seconds."""
        kind, now = re.sub(r"[\d.e+-]+", "#", text), time.monotonic()
        if now - self._logged.get(kind, -math.inf) >= _LOG_EVERY_S:
            if len(self._logged) > 100:
                self._logged.clear()
            self._logged[kind] = now
            self.get_logger().warning(text)

    def _arrived(self, link: Link, data: bytes, address: Any) -> None:
        """Hand over what a connection's thread has read."""
        try:
            self._unread.put_nowait((link, data, address))
        except queue.Full:  # a flood; MAVLink is made for loss
            return
        self._wake.trigger()

    def _read(self) -> None:
        """Handle what has been read."""
        for _ in range(self._unread.qsize()):
            link, data, address = self._unread.get_nowait()
            now = time.monotonic()
            known = len(link.peers)
            for message, peer in link.decode(data, address, now):
                if len(link.peers) > known:
                    known = len(link.peers)
                    self.get_logger().info(f"{peer.name} speaks on {link.name}")
                self._camera.receive(message, peer, now)

    def _tick(self) -> None:
        now = time.monotonic()
        self._camera.tick(now)
        for entry in [entry for entry in self._waiting if now > entry[0]]:
            _, client, future, answer = entry
            client.remove_pending_request(future)
            self._waiting.remove(entry)
            text = f"{client.srv_name} did not answer within {_ANSWER_S:g} s"
            answer(Outcome(SelectionCode.MODEL_FAILED, text))

    def _housekeep(self) -> None:
        """Forget who has left; look at an image where no camera_info tells the size."""
        now = time.monotonic()
        for link in self._links:
            for peer in link.forget_silent(now):
                self.get_logger().info(f"{peer.name} has fallen silent on {link.name}")
                self._camera.forget(peer)
        if not self._has_camera_info and self._peeking is None and now >= self._next_peek:
            qos = keep_last(1, reliable=False)
            self._peeking = self._hear(*self._images, self._on_image, qos)

    def _on_image(self, message: Image | CompressedImage) -> None:
        if isinstance(message, Image):
            self._size = (message.width, message.height)
        else:
            try:
                height, width = rgb_from_image(message).shape[:2]
            except ValueError:
                return  # the tracker says what is wrong with it; the next one may be good
            self._size = (width, height)
        self._stop_peeking()

    def _on_camera_info(self, message: CameraInfo) -> None:
        if message.width and message.height:
            self._has_camera_info = True
            self._size = (message.width, message.height)
            self._stop_peeking()

    def _stop_peeking(self) -> None:
        self._next_peek = time.monotonic() + _PEEK_S
        if self._peeking is not None:
            self.destroy_subscription(self._peeking)
            self._peeking = None

    def _on_target(self, message: Detection2D) -> None:
        self._box = (stamp_nanoseconds(message.header), box_of(message.bbox))
        self._show()

    def _on_status(self, message: TargetStatus) -> None:
        self._status = message
        if message.header.frame_id:  # otherwise it is no image's
            self._newest_ns = stamp_nanoseconds(message.header)
            self._frame_id = message.header.frame_id
            self._status_came = time.monotonic()
        self._show()

    def _show(self) -> None:
        """Tell the camera of the latest image, as soon as its status and box have come."""
        status = self._status
        if status is None:
            return
        state = TargetState(status.state)
        box = None
        if state in _SHOWN:
            if self._box is None or self._box[0] != stamp_nanoseconds(status.header):
                return
            box = self._box[1]
        view = TrackView(state, box, self._size, status.target_id, alive=True)
        self._camera.update(view, time.monotonic())

    def _on_direction(self, message: TargetDirection) -> None:
        if not math.isfinite(message.distance):
            self._complain(
                "target_direction has no distance: give the tracker depth images or target_size_m"
            )
            return
        bearing = np.array([message.bearing.x, message.bearing.y, message.bearing.z])
        along = np.outer(bearing, bearing)
        stamp_ns = stamp_nanoseconds(message.header)
        age = (self.get_clock().now().nanoseconds - stamp_ns) / 1e9
        now = time.monotonic()
        self._camera.locate(
            TargetPosition(
                stamp_us=max(stamp_ns, 0) // 1000,
                target=int(message.target_id) if message.target_id.isdecimal() else 0,
                position=bearing * message.distance,
                covariance=message.angle_variance * message.distance**2 * (np.eye(3) - along)
                + message.distance_variance * along,
                # Stamps of another clock tell nothing of the age.
                seen_at=now - (age if 0.0 <= age <= 1.0 else 0.0),
            ),
            now,
        )

    def _call(self, client: Any, request: Any, answer: OutcomeAnswer) -> None:
        """Call a service of the tracker."""
        if not client.service_is_ready():
            text = f"service {client.srv_name} is not there: start the tracker"
            answer(Outcome(SelectionCode.NOT_ACTIVE, text))
            return
        future = client.call_async(request)
        self._waiting.append((time.monotonic() + _ANSWER_S, client, future, answer))
        future.add_done_callback(partial(self._answered, answer))

    def _answered(self, answer: OutcomeAnswer, future: Future) -> None:
        before = len(self._waiting)
        self._waiting = [entry for entry in self._waiting if entry[2] is not future]
        if len(self._waiting) == before:
            return  # given up
        response = future.result()
        code = SelectionCode.OK if response.success else SelectionCode.NOT_ACTIVE
        if hasattr(response, "code"):
            code = SelectionCode(response.code)
        answer(Outcome(code, response.message, getattr(response, "target_id", "")))


def main(args: list[str] | None = None) -> None:
    """Run the node."""
    about = "Makes the tracker a MAVLink camera: ground stations select targets and see them."
    check_command_line("mavlink_bridge", about, MAVLINK_BRIDGE_PARAMETERS, args)
    exit_program(run_node(MavlinkBridgeNode, args))


if __name__ == "__main__":
    main()
