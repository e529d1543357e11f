# SPDX-License-Identifier: Apache-2.0
"""A program that listens to the topics of the tracker; the soak stops it and lets it go on."""

from __future__ import annotations

import contextlib

import rclpy
from geometry_msgs.msg import PoseWithCovarianceStamped
from rclpy.executors import ExternalShutdownException
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from tracker_interfaces.msg import TargetDirectionArray, TargetStatus, TargetStatusArray
from tracker_ros.nodes.messages import keep_last
from tracker_ros.nodes.node_main import end_in_time


def main() -> None:
    """Listen until a signal comes."""
    end_in_time()
    rclpy.init()
    node = rclpy.create_node("soak_listener")
    for kind, topic in (
        (Detection2DArray, "targets"),
        (TargetStatus, "target_status"),
        (TargetStatusArray, "target_statuses"),
        (TargetDirectionArray, "target_directions"),
        (PoseWithCovarianceStamped, "target_pose"),
        (Image, "debug/image"),
    ):
        node.create_subscription(kind, topic, lambda message: None, keep_last(10))
    with contextlib.suppress(ExternalShutdownException):
        rclpy.spin(node)


if __name__ == "__main__":
    main()
