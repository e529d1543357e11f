# SPDX-License-Identifier: Apache-2.0
"""Camera and operator of the soak test: shows images, sends requests, checks every answer."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from geometry_msgs.msg import PoseWithCovarianceStamped, TwistWithCovarianceStamped
from rclpy.clock import Clock, ClockType
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection2D, Detection2DArray, Detection3DArray

from tools.harness import HarnessError
from tools.harness.operator import Operator
from tools.soak.camera import Camera
from tracker_interfaces.msg import (
    TargetDirection,
    TargetStatus,
    TargetStatusArray,
    TargetVelocityArray,
)
from tracker_interfaces.srv import SelectFromDetections, SelectTarget
from tracker_ros.nodes.messages import keep_last

ANSWER_S = 120.0
"""Limit of every answer. Generous, for machines that do other things too: only a lost answer
should ever reach it."""
STANDSTILL_S = 5.0
FORGOTTEN_AFTER_S = 30.0
"""The middleware forgets a node that is silent for 20 seconds."""
_BRING_TRIES = 5
_STEP_S = 2.0
PLACES = {
    "target_direction": TargetDirection,
    "target_pose": PoseWithCovarianceStamped,
    "target_velocity": TwistWithCovarianceStamped,
    "target_velocities": TargetVelocityArray,
    "target_poses": Detection3DArray,
    "target_predicted": Detection2D,
}
"""Topics that say where targets are, and their types."""
OK = SelectTarget.Response.OK


class Driver(Operator):
    """Plays camera and operator for the tracker in the same namespace.

    Attributes:
        camera: Makes the images.
        detections: Publisher of `detections`.
        chooser: Client of `select_from_detections`.
        requests: Number of requests by service.
        silent_refusals: Refusals without code or reason.
        statuses: Number of statuses received.
        wrong_statuses: Statuses that contradict themselves, in words.
        status: The newest status.
        boxes_heard: Number of boxes received.
        places_heard: Number of messages by topic of `PLACES`.
        standstills: How often this process, and with it the machine, stood still.

    Args:
        camera: Makes the images.
        alive: Tells whether the tracker's program still runs.
        explain: Called when an answer is overdue, before the error is raised.
    """

    def __init__(
        self, camera: Camera, alive: Callable[[], bool], explain: Callable[[], None]
    ) -> None:
        super().__init__("soak", alive=alive)
        self.camera = camera
        self._explain = explain
        self.requests: Counter[str] = Counter()
        self.silent_refusals: list[str] = []
        self.wrong_statuses: list[str] = []
        self.statuses = self.boxes_heard = self.standstills = 0
        self.status = TargetStatus()
        self.places_heard: Counter[str] = Counter()
        self.newest_stamp: Any = None
        self.detections = self.node.create_publisher(Detection2DArray, "detections", keep_last(1))
        self.chooser = self.node.create_client(SelectFromDetections, "select_from_detections")
        self._compressed = self.node.create_publisher(
            CompressedImage, "image/compressed", keep_last(5)
        )
        self._space = {
            topic: self.node.create_publisher(kind, topic, keep_last(5))
            for topic, kind in (("camera_info", CameraInfo), ("depth", Image), ("/tf", TFMessage))
        }
        self._debug_topics: list[Any] = []
        self._place_topics: list[Any] = []
        self._timer: Any = None
        self._stood_still = -math.inf
        self.hear(TargetStatus, "target_status", self._on_status, keep_last(50))
        self.hear(TargetStatusArray, "target_statuses", self._on_statuses, keep_last(50))
        self.hear(Detection2D, "target", self._on_target, keep_last(10))

    def set_rate(self, hertz: float) -> None:
        """Show so many images per second from now on; 0 for none."""
        if self._timer is not None:
            self.node.destroy_timer(self._timer)
            self._timer = None
        if hertz > 0:
            steady = Clock(clock_type=ClockType.STEADY_TIME)
            self._timer = self.node.create_timer(1.0 / hertz, self._show, clock=steady)

    def look(self, wanted: bool) -> None:
        """Subscribe to the debug images, or stop; they are made only for subscribers."""
        for subscription in self._debug_topics:
            self.node.destroy_subscription(subscription)
        topics = ("debug/image", "debug/score") if wanted else ()
        self._debug_topics = [
            self.hear(Image, topic, lambda image: None, keep_last(1)) for topic in topics
        ]

    def look_where(self, wanted: bool) -> None:
        """Subscribe to the topics that say where targets are, or stop."""
        for subscription in self._place_topics:
            self.node.destroy_subscription(subscription)

        def count(topic: str) -> Callable[[Any], None]:
            return lambda message: self.places_heard.update([topic])

        self._place_topics = [
            self.hear(kind, topic, count(topic), keep_last(1))
            for topic, kind in PLACES.items()
            if wanted
        ]

    def watched(self) -> bool:
        """Whether the tracker subscribes to the camera, which it does while it is active."""
        return super().watched() or self._compressed.get_subscription_count() > 0

    def bring(self, wanted: int) -> bool:
        """Bring the tracker into a lifecycle state, however long its model takes to load.

        Raises:
            HarnessError: It does not get there.
        """
        for _ in range(_BRING_TRIES):
            if super().bring(wanted):
                return True
        raise HarnessError(f"the node does not reach the lifecycle state {wanted}")

    def show_one(self) -> bool:
        """Show an image and wait for its status. Returns whether that came; images may be lost."""
        self._show()
        return bool(self.wait(lambda: self.status.header.stamp == self.newest_stamp, _STEP_S))

    def turn(self, patience_s: float) -> float:
        """Handle the next event; notice if the machine stood still meanwhile."""
        took = super().turn(patience_s)
        if took > patience_s + STANDSTILL_S:
            self.standstills += 1
            self._stood_still = time.monotonic()
        return took

    def call_all(self, *pairs: tuple[Any, Any], patience_s: float = ANSWER_S) -> list[Any]:
        """Send requests at once; count them and check every answer.

        They are sent once more if the machine stood still meanwhile or just before: the
        middleware then forgets the node, and the messages under way to it.
        """
        began = time.monotonic()
        self.requests.update(client.srv_name for client, _ in pairs)
        try:
            answers = super().call_all(*pairs, patience_s=patience_s)
        except HarnessError:
            if self._stood_still > began - FORGOTTEN_AFTER_S:
                return self.call_all(*pairs)
            self._explain()
            raise
        for (client, _), answer in zip(pairs, answers, strict=True):
            self._check(client.srv_name, answer)
        return answers

    def _check(self, service: str, answer: Any) -> None:
        """Note a refusal that gives no reason."""
        explained = getattr(answer, "message", "?") and getattr(answer, "code", 1) != OK
        if not getattr(answer, "success", True) and not explained:
            self.silent_refusals.append(f"{service} refused without a code or a reason")
        for result in getattr(answer, "results", ()):
            if not result.successful and not result.reason:
                self.silent_refusals.append(f"{service} refused a parameter without a reason")

    def _show(self) -> None:
        image = self.camera.next(self.node.get_clock().now().nanoseconds)
        if image is not None:
            for topic, message in self.camera.space.messages(image).items():
                self._space[topic].publish(message)
            self.newest_stamp = image.header.stamp
            compressed = isinstance(image, CompressedImage)
            (self._compressed if compressed else self.images).publish(image)

    def _on_target(self, message: Detection2D) -> None:
        self.boxes_heard += 1

    def _on_status(self, message: TargetStatus) -> None:
        self.status = message
        self._check_sum(message)

    def _on_statuses(self, message: TargetStatusArray) -> None:
        self._check_sum(message)
        ids = [status.target_id for status in message.statuses]
        if len(set(ids)) < len(ids):
            self.wrong_statuses.append(f"an id comes twice: {ids}")

    def _check_sum(self, message: TargetStatus | TargetStatusArray) -> None:
        """Note a message whose frame counters do not add up."""
        self.statuses += 1
        kinds = ("tracked", "dropped", "rejected", "idle")
        parts = {kind: getattr(message, f"frames_{kind}") for kind in kinds}
        if message.frames_received != sum(parts.values()):
            self.wrong_statuses.append(f"{message.frames_received} received, {parts}")
