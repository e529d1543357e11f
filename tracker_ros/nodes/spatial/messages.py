# SPDX-License-Identifier: Apache-2.0
"""Pack where a target is into messages.

The orientation of a target is unknown: poses hold the identity, with the variance of an angle of
which nothing is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
    TwistWithCovarianceStamped,
    Vector3,
)
from std_msgs.msg import Header
from vision_msgs.msg import Detection3D, Detection3DArray, ObjectHypothesisWithPose

from tracker_interfaces.msg import TargetDirection
from tracker_ros.following.frames import TargetReport
from tracker_ros.spatial.motion import MotionEstimate
from tracker_ros.spatial.target_locator import Direction, Distance, Measurement

__all__ = [
    "direction_message",
    "point_message",
    "pose_message",
    "pose_stamped_message",
    "pose_with_covariance",
    "poses_message",
    "transform_message_type",
    "transforms_message",
    "velocity_message",
]

_UNKNOWN_ANGLE = math.pi**2 / 3
_NAN = float("nan")


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
    message = PoseWithCovariance()
    message.pose.position = _point(position)
    spread = np.zeros((6, 6))
    spread[:3, :3] = covariance
    spread[3:, 3:] = _UNKNOWN_ANGLE * np.eye(3)
    message.covariance = spread.ravel()
    return message


def point_message(header: Header, state: MotionEstimate) -> PointStamped:
    """Pack a position."""
    return PointStamped(header=header, point=_point(state.position))


def pose_message(header: Header, state: MotionEstimate) -> PoseWithCovarianceStamped:
    """Pack a position with its covariance."""
    pose = pose_with_covariance(state.position, state.position_covariance)
    return PoseWithCovarianceStamped(header=header, pose=pose)


def pose_stamped_message(header: Header, state: MotionEstimate) -> PoseStamped:
    """Pack a position as a pose without a covariance."""
    message = PoseStamped(header=header)
    message.pose.position = _point(state.position)
    return message


def velocity_message(header: Header, state: MotionEstimate) -> TwistWithCovarianceStamped:
    """Pack a velocity with its covariance; nothing is known of the rotation."""
    message = TwistWithCovarianceStamped(header=header)
    message.twist.twist.linear = _vector(state.velocity)
    spread = np.zeros((6, 6))
    spread[:3, :3] = state.velocity_covariance
    spread[3:, 3:] = _UNKNOWN_ANGLE * np.eye(3)
    message.twist.covariance = spread.ravel()
    return message


def poses_message(
    header: Header,
    targets: Sequence[tuple[TargetReport, str, MotionEstimate, Measurement]],
    camera_orientation: tuple[float, float, float, float] | None,
) -> Detection3DArray:
    """Pack the poses of several targets.

    The size of a box is how wide and high it appears at the target's distance; as its thickness is
    not seen, the smaller of both stands for it.

    Args:
        header: Time and frame.
        targets: Each with its class, its position and how it appears.
        camera_orientation: Quaternion (x, y, z, w) of the optical frame in the header's frame;
            None if they are the same.
    """
    x, y, z, w = camera_orientation or (0.0, 0.0, 0.0, 1.0)
    message = Detection3DArray(header=header)
    for target, class_id, state, seen in targets:
        hypothesis = ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id = class_id
        hypothesis.hypothesis.score = float(target.score)
        hypothesis.pose = pose_with_covariance(state.position, state.position_covariance)
        detection = Detection3D(header=header, id=target.target_id, results=[hypothesis])
        detection.bbox.center.position = _point(state.position)
        detection.bbox.center.orientation = Quaternion(x=x, y=y, z=z, w=w)
        if seen.direction is not None and seen.distance is not None:
            width, height = (
                2 * seen.distance.metres * math.tan(min(angle, 3.0) / 2)
                for angle in (seen.direction.width, seen.direction.height)
            )
            detection.bbox.size = Vector3(x=width, y=height, z=min(width, height))
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


def transforms_message(header: Header, frames: Mapping[str, MotionEstimate]) -> Any:
    """Pack the frames of targets, by name, as transforms from the header's frame."""
    transforms = []
    for name, state in frames.items():
        transform = TransformStamped(header=header, child_frame_id=name)
        transform.transform.translation = _vector(state.position)
        transforms.append(transform)
    return transform_message_type()(transforms=transforms)


def _vector(values: np.ndarray) -> Vector3:
    x, y, z = values.tolist()
    return Vector3(x=x, y=y, z=z)


def _point(values: np.ndarray) -> Point:
    x, y, z = values.tolist()
    return Point(x=x, y=y, z=z)
