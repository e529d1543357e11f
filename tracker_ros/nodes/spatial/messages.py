# SPDX-License-Identifier: Apache-2.0
"""Pack where a target is into messages.

The orientation of a target is unknown: poses hold the identity, with the variance of an angle of
which nothing is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from geometry_msgs.msg import (
    Point,
    PointStamped,
    PoseStamped,
    PoseWithCovariance,
    PoseWithCovarianceStamped,
    Quaternion,
    TransformStamped,
    TwistWithCovariance,
    TwistWithCovarianceStamped,
    Vector3,
)
from std_msgs.msg import Header
from vision_msgs.msg import Detection3D, Detection3DArray, ObjectHypothesisWithPose

from tracker_interfaces.msg import TargetDirection, TargetVelocity, TargetVelocityArray
from tracker_ros.following.frames import TargetReport
from tracker_ros.spatial.motion import MotionEstimate
from tracker_ros.spatial.target_locator import Direction, Distance, Measurement

__all__ = [
    "Place",
    "direction_message",
    "point_message",
    "pose_message",
    "pose_stamped_message",
    "pose_with_covariance",
    "poses_message",
    "transform_message_type",
    "transforms_message",
    "velocities_message",
    "velocity_message",
]

_UNKNOWN_ANGLE = math.pi**2 / 3
_NAN = float("nan")


@dataclass(frozen=True)
class Place:
    """Where one target is, and the parts of messages that say so.

    Each part is made once for a frame, however many messages hold it: making messages costs rclpy
    more than everything else here.

    Attributes:
        target: The target.
        class_id: Its class.
        state: Position and velocity.
        seen: How it appears in the image.
    """

    target: TargetReport
    class_id: str
    state: MotionEstimate
    seen: Measurement

    @cached_property
    def point(self) -> Point:
        """The position."""
        return _point(self.state.position)

    @cached_property
    def pose(self) -> PoseWithCovariance:
        """The position as a pose of unknown orientation."""
        return _pose(self.point, self.state.position_covariance)

    @cached_property
    def twist(self) -> TwistWithCovariance:
        """The velocity; nothing is known of the rotation."""
        message = TwistWithCovariance(covariance=_spread(self.state.velocity_covariance))
        message.twist.linear = _vector(self.state.velocity)
        return message

    @property
    def size(self) -> Vector3 | None:
        """Metres: how wide and high the target appears at its distance; None if unknown.

        As its thickness is not seen, the smaller of both stands for it.
        """
        direction, distance = self.seen.direction, self.seen.distance
        if direction is None or distance is None:
            return None
        width, height = (
            2 * distance.metres * math.tan(min(angle, 3.0) / 2)
            for angle in (direction.width, direction.height)
        )
        return Vector3(x=width, y=height, z=min(width, height))


def direction_message(
    header: Header,
    target: TargetReport,
    direction: Direction,
    ahead: float,
    distance: Distance | None,
    moving: MotionEstimate | None,
) -> TargetDirection:
    """Pack a direction.

    Args:
        header: Time and frame for which it holds.
        target: The target.
        direction: Its direction.
        ahead: Seconds since the image.
        distance: Its distance in the image; None if unknown.
        moving: The filtered distance (1,) at the header's time and its rate.
    """
    message = TargetDirection(
        header=header,
        predicted_by=float(ahead),
        target_id=target.target_id,
        label=target.label,
        bearing=_vector(direction.bearing),
        azimuth=direction.angles.azimuth,
        elevation=direction.angles.elevation,
        azimuth_rate=direction.rates.azimuth,
        elevation_rate=direction.rates.elevation,
        angle_variance=direction.variance,
        angular_width=direction.width,
        angular_height=direction.height,
        distance=_NAN,
        distance_rate=_NAN,
        distance_variance=_NAN,
    )
    if distance is not None and moving is not None:
        message.distance = float(moving.position[0]) if ahead else distance.metres
        variance = float(moving.position_covariance[0, 0]) if ahead else distance.variance
        message.distance_variance = variance
        message.distance_rate = float(moving.velocity[0])
    return message


def pose_with_covariance(position: np.ndarray, covariance: np.ndarray) -> PoseWithCovariance:
    """Pack a position (3,) and its covariance (3, 3) as a pose of unknown orientation."""
    return _pose(_point(position), covariance)


def point_message(header: Header, place: Place) -> PointStamped:
    """Pack a position."""
    return PointStamped(header=header, point=place.point)


def pose_message(header: Header, place: Place) -> PoseWithCovarianceStamped:
    """Pack a position with its covariance."""
    return PoseWithCovarianceStamped(header=header, pose=place.pose)


def pose_stamped_message(header: Header, place: Place) -> PoseStamped:
    """Pack a position as a pose without a covariance."""
    return PoseStamped(header=header, pose=place.pose.pose)


def velocity_message(header: Header, place: Place) -> TwistWithCovarianceStamped:
    """Pack a velocity with its covariance."""
    return TwistWithCovarianceStamped(header=header, twist=place.twist)


def velocities_message(header: Header, places: Sequence[Place]) -> TargetVelocityArray:
    """Pack the velocities of several targets."""
    velocities = [
        TargetVelocity(
            header=header,
            target_id=place.target.target_id,
            label=place.target.label,
            twist=place.twist,
        )
        for place in places
    ]
    return TargetVelocityArray(header=header, velocities=velocities)


def poses_message(
    header: Header,
    places: Sequence[Place],
    camera_orientation: tuple[float, float, float, float] | None,
) -> Detection3DArray:
    """Pack the poses of several targets.

    Args:
        header: Time and frame.
        places: Where they are.
        camera_orientation: Quaternion (x, y, z, w) of the optical frame in the header's frame;
            None if they are the same.
    """
    x, y, z, w = camera_orientation or (0.0, 0.0, 0.0, 1.0)
    message = Detection3DArray(header=header)
    for place in places:
        hypothesis = ObjectHypothesisWithPose(pose=place.pose)
        hypothesis.hypothesis.class_id = place.class_id
        hypothesis.hypothesis.score = float(place.target.score)
        detection = Detection3D(header=header, id=place.target.target_id, results=[hypothesis])
        detection.bbox.center.position = place.point
        detection.bbox.center.orientation = Quaternion(x=x, y=y, z=z, w=w)
        if (size := place.size) is not None:
            detection.bbox.size = size
        message.detections.append(detection)
    return message


def transform_message_type() -> type:
    """Return the type of messages on ``/tf``.

    Raises:
        ImportError: tf2_msgs is not installed; names the package.
    """
    try:
        from tf2_msgs.msg import TFMessage
    except ImportError as error:
        raise ImportError(
            f"target_frame_prefix needs tf2_msgs ({error}): install the package "
            "ros-$ROS_DISTRO-tf2-msgs, or leave target_frame_prefix empty"
        ) from error
    return TFMessage


def transforms_message(header: Header, frames: Mapping[str, Place]) -> Any:
    """Pack the frames of targets, by name, as transforms from the header's frame."""
    transforms = []
    for name, place in frames.items():
        transform = TransformStamped(header=header, child_frame_id=name)
        transform.transform.translation = _vector(place.state.position)
        transforms.append(transform)
    return transform_message_type()(transforms=transforms)


def _vector(values: np.ndarray) -> Vector3:
    x, y, z = values.tolist()
    return Vector3(x=x, y=y, z=z)


def _point(values: np.ndarray) -> Point:
    x, y, z = values.tolist()
    return Point(x=x, y=y, z=z)


def _pose(point: Point, covariance: np.ndarray) -> PoseWithCovariance:
    message = PoseWithCovariance(covariance=_spread(covariance))
    message.pose.position = point
    return message


def _spread(covariance: np.ndarray) -> np.ndarray:
    """Return the covariance (36,) of a position or velocity (3, 3) and an unknown rotation."""
    spread = np.zeros((6, 6))
    spread[:3, :3] = covariance
    spread[(3, 4, 5), (3, 4, 5)] = _UNKNOWN_ANGLE
    return spread.ravel()
