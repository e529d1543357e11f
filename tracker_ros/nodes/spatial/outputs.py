# SPDX-License-Identifier: Apache-2.0
"""Publishes where targets are: direction, distance, pose, velocity, and boxes a moment ahead.

All of it is made only while somebody subscribes, from targets that can be seen, and in the
worker's thread. ``docs/robot.md`` describes the topics.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from geometry_msgs.msg import (
    PointStamped,
    PoseStamped,
    PoseWithCovarianceStamped,
    TwistWithCovarianceStamped,
    Vector3Stamped,
)
from rclpy.lifecycle import Node as LifecycleNode
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D, Detection2DArray, Detection3DArray
from visualization_msgs.msg import MarkerArray

from tracker_interfaces.msg import TargetDirection, TargetDirectionArray, TargetVelocityArray
from tracker_ros.following.frames import FrameReport, TargetReport
from tracker_ros.following.target_state import VISIBLE
from tracker_ros.io.depth_images import DepthImage
from tracker_ros.nodes.messages import detection_of, stamp_message
from tracker_ros.nodes.parameters import Value
from tracker_ros.nodes.spatial import messages as pack
from tracker_ros.nodes.spatial.inputs import Complaints, FixedFrame, SpatialInputs
from tracker_ros.nodes.spatial.markers import markers_message
from tracker_ros.quoting import printable, quote
from tracker_ros.spatial.camera import CameraModel
from tracker_ros.spatial.target_locator import Measurement, TargetLocator
from tracker_ros.spatial.transform import Transform

__all__ = ["SpatialOutputs", "SpatialSettings"]

_MAX_PREDICTION_S = 1.0
_DIRECTION = {
    "target_bearing": Vector3Stamped,
    "target_direction": TargetDirection,
    "target_directions": TargetDirectionArray,
}
_POSITION = {
    "target_point": PointStamped,
    "target_pose": PoseWithCovarianceStamped,
    "target_pose_stamped": PoseStamped,
    "target_poses": Detection3DArray,
    "target_velocity": TwistWithCovarianceStamped,
    "target_velocities": TargetVelocityArray,
    "target_markers": MarkerArray,
}
_BOX = {"target_predicted": Detection2D, "targets_predicted": Detection2DArray}


@dataclass(frozen=True)
class SpatialSettings:
    """How targets are located.

    Attributes:
        predict: Whether the outputs hold for the time of publication instead of the image's.
        target_size_m: What the longer side of a box shows, metres; 0 if unknown.
        depth_tolerance_s: By how much the stamps of an image and its depth may differ.
        rectified: Whether the images are rectified.
    """

    predict: bool
    target_size_m: float
    depth_tolerance_s: float
    rectified: bool

    @staticmethod
    def of(values: Mapping[str, Value]) -> SpatialSettings:
        """Return the settings among the node's parameters."""
        return SpatialSettings(
            bool(values["predict"]),
            float(values["target_size_m"]),
            float(values["depth_tolerance"]),
            bool(values["image_rectified"]),
        )


class SpatialOutputs:
    """The publishers of `docs/robot.md`, from configure to cleanup.

    Args:
        node: The node.
        publisher: Creates a lifecycle publisher of a type on a topic.
        destroy: Destroys it.
        model: Name of the model, the class of a target without a label.
        values: The node's parameters.

    Attributes:
        inputs: Takes calibration and depth images.

    Raises:
        ImportError: A parameter needs a package of TF that is not installed.
    """

    def __init__(
        self,
        node: LifecycleNode,
        publisher: Callable[[type, str], Any],
        destroy: Callable[[Any], Any],
        model: str,
        values: Mapping[str, Value],
    ) -> None:
        self._clock = node.get_clock()
        self._destroy = destroy
        self._model = model
        self._complaints = Complaints(node)
        self._locators: dict[str, TargetLocator] = {}
        self._wanted: set[str] = set()
        self._camera: CameraModel | None = None
        self._frame_prefix = str(values["target_frame_prefix"])
        fixed_frame = str(values["fixed_frame"])
        self._fixed_frame = FixedFrame(node, fixed_frame) if fixed_frame else None
        self.inputs = SpatialInputs(node, self._complaints, str(values["depth_transport"]))
        self.settings = SpatialSettings.of(values)
        kinds = {**_DIRECTION, **_POSITION, **_BOX}
        self._publishers = {topic: publisher(kind, topic) for topic, kind in kinds.items()}
        if self._frame_prefix:
            self._publishers["/tf"] = publisher(pack.transform_message_type(), "/tf")

    @property
    def settings(self) -> SpatialSettings:
        """How targets are located; may be replaced."""
        return self._settings

    @settings.setter
    def settings(self, settings: SpatialSettings) -> None:
        self._settings = settings
        self.inputs.rectified = settings.rectified
        self.inputs.depth_tolerance_s = settings.depth_tolerance_s

    def close(self) -> None:
        """Destroy the publishers and stop listening to transforms."""
        for publisher in self._publishers.values():
            self._destroy(publisher)
        if self._fixed_frame is not None:
            self._fixed_frame.close()

    def keep_up(self, stamp_ns: int) -> None:
        """Take the transforms that have come until an image, so that few wait for the next."""
        if self._fixed_frame is not None:
            self._fixed_frame.take(stamp_ns)

    def forget(self, target_ids: Collection[str]) -> None:
        """Forget targets that are no longer followed."""
        for target_id in target_ids:
            self._locators.pop(target_id, None)

    def measure(self, report: FrameReport[Any]) -> dict[str, Measurement]:
        """Return where the visible targets are, by their ids."""
        frame, image = report.frame, report.image
        if frame is None or image is None:
            return {}
        camera, depth = None, None
        height, width = image.shape[:2]
        has_depth = self.inputs.has_depth
        if has_depth or self._wanted.difference(_BOX):
            camera = self.inputs.camera(width, height)
        if camera is not None and has_depth:
            depth = self.inputs.depth(frame.stamp_ns, width, height)
        self._camera = camera
        return {
            target.target_id: self._measure(frame.time_s, target, camera, depth)
            for target in report.targets
            if target.result is not None and target.state in VISIBLE
        }

    def _measure(
        self,
        time_s: float,
        target: TargetReport,
        camera: CameraModel | None,
        depth: DepthImage | None,
    ) -> Measurement:
        """Locate one target in the image, and let its filters know."""
        assert target.result is not None
        locator = self._locators.setdefault(target.target_id, TargetLocator())
        return locator.measure(time_s, target.result, camera, depth, self._settings.target_size_m)

    def publish(
        self,
        header: Header,
        report: FrameReport[Any],
        measured: Mapping[str, Measurement] | None = None,
    ) -> None:
        """Publish what somebody subscribes to.

        Args:
            header: The image's.
            report: Of the image.
            measured: From `measure`; None measures now, if anybody wants to know.
        """
        self._wanted = {
            topic for topic, p in self._publishers.items() if p.get_subscription_count() > 0
        }
        if self._frame_prefix:
            self._wanted.add("/tf")
        if measured is None and self._wanted:
            measured = self.measure(report)
        frame = report.frame
        if frame is None or not measured or not self._wanted:
            return
        ahead = self._ahead(frame.stamp_ns) if self._settings.predict else 0.0
        stamp = stamp_message(frame.stamp_ns + round(ahead * 1e9)) if ahead else header.stamp
        now = Header(stamp=stamp, frame_id=header.frame_id)
        shown = [target for target in report.targets if target.target_id in measured]
        first = report.first.target_id
        if self._settings.predict and self._wanted.intersection(_BOX):
            self._publish_boxes(now, frame.time_s + ahead, shown, first)
        if self._wanted.intersection(_DIRECTION):
            self._publish_directions(now, frame.time_s, ahead, shown, first, measured)
        if self._wanted.intersection((*_POSITION, "/tf")):
            self._publish_positions(
                now, frame.time_s, ahead, shown, first, measured, frame.stamp_ns
            )

    def _ahead(self, stamp_ns: int) -> float:
        """Return the seconds from the image to now, 0 if stamps and clock do not agree."""
        ahead = (self._clock.now().nanoseconds - stamp_ns) / 1e9
        if stamp_ns and 0.0 <= ahead <= _MAX_PREDICTION_S:
            return ahead
        self._complaints.warn(
            f"nothing is predicted: the image is {ahead:.3f} s old by this node's clock, expected "
            f"0 to {_MAX_PREDICTION_S:g} s: synchronise the clocks, or set use_sim_time for a "
            "recording",
            kind="predict",
        )
        return 0.0

    def _send(self, topic: str, message: Callable[[], Any]) -> None:
        if topic in self._wanted:
            self._publishers[topic].publish(message())

    def _publish_boxes(
        self, header: Header, time_s: float, shown: list[TargetReport], first: str
    ) -> None:
        """Publish the boxes at a time."""
        boxes = {}
        for target in shown:
            box = self._locators[target.target_id].box_at(time_s)
            if box is not None:
                label = target.label or self._model
                boxes[target.target_id] = detection_of(
                    header, box, target.target_id, label, target.score
                )
        if first in boxes:
            self._send("target_predicted", lambda: boxes[first])
        self._send(
            "targets_predicted",
            lambda: Detection2DArray(header=header, detections=list(boxes.values())),
        )

    def _publish_directions(
        self,
        header: Header,
        time_s: float,
        ahead: float,
        shown: list[TargetReport],
        first: str,
        measured: Mapping[str, Measurement],
    ) -> None:
        """Publish in which directions and how far away targets are."""
        messages = {}
        for target in shown:
            locator, seen = self._locators[target.target_id], measured[target.target_id]
            direction, distance = seen.direction, seen.distance
            moving = locator.range_at(time_s + ahead) if distance is not None else None
            if ahead and self._camera is not None:
                direction = locator.direction(self._camera, time_s + ahead)
            if direction is not None:
                messages[target.target_id] = pack.direction_message(
                    header, target, direction, ahead, distance, moving
                )
        if first in messages:
            self._send(
                "target_bearing",
                lambda: Vector3Stamped(header=header, vector=messages[first].bearing),
            )
            self._send("target_direction", lambda: messages[first])
        if messages:
            array = list(messages.values())
            self._send(
                "target_directions", lambda: TargetDirectionArray(header=header, directions=array)
            )

    def _publish_positions(
        self,
        header: Header,
        time_s: float,
        ahead: float,
        shown: list[TargetReport],
        first: str,
        measured: Mapping[str, Measurement],
        stamp_ns: int,
    ) -> None:
        """Publish positions and velocities, in the fixed frame if there is one."""
        placed = {name: m for name, m in measured.items() if m.position is not None}
        to_frame: Transform | None = None
        if placed and self._fixed_frame is not None:
            fixed = self._fixed_frame.frame
            try:
                to_frame = self._fixed_frame.lookup(header.frame_id, stamp_ns)
            except ValueError as error:
                reason = printable(str(error), 200)
                self._complaints.warn(
                    f"no pose in fixed_frame '{fixed}': no transform from "
                    f"{quote(header.frame_id)} at the image's time ({reason}): publish it on /tf "
                    "at most 0.1 s late, or leave fixed_frame empty",
                    kind="tf",
                )
                return
            header = Header(stamp=header.stamp, frame_id=fixed)
        places: dict[str, pack.Place] = {}
        for target in shown:
            if (seen := placed.get(target.target_id)) is None:
                continue
            assert seen.position is not None and seen.covariance is not None
            position, covariance = seen.position, seen.covariance
            if to_frame is not None:
                position, covariance = to_frame.apply(position, covariance)
            locator = self._locators[target.target_id]
            locator.observe_position(time_s, position, covariance, header.frame_id)
            state = locator.position_at(time_s + ahead)
            if state is not None:
                if not ahead:
                    state = replace(state, position=position, position_covariance=covariance)
                class_id = target.label or self._model
                places[target.target_id] = pack.Place(target, class_id, state, seen)
        if (place := places.get(first)) is not None:
            self._send("target_point", lambda: pack.point_message(header, place))
            self._send("target_pose", lambda: pack.pose_message(header, place))
            self._send("target_pose_stamped", lambda: pack.pose_stamped_message(header, place))
            self._send("target_velocity", lambda: pack.velocity_message(header, place))
        if places:
            located = list(places.values())
            quaternion = None if to_frame is None else to_frame.quaternion
            self._send("target_poses", lambda: pack.poses_message(header, located, quaternion))
            self._send("target_velocities", lambda: pack.velocities_message(header, located))
            self._send("target_markers", lambda: markers_message(header, located))
            frames = {self._frame_prefix + name: place for name, place in places.items()}
            self._send("/tf", lambda: pack.transforms_message(header, frames))
