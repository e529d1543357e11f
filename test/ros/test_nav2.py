# SPDX-License-Identifier: Apache-2.0
"""What nav2's following server is given: goal, parameters, topic, type, frame, stamps and rate.

nav2 is not part of the development environment. Its public definitions stand here as data.
"""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import tf2_ros
import yaml
from geometry_msgs.msg import PoseStamped, TransformStamped
from graph_probe import image_message
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch_ros.actions import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo

from tracker_ros.mavlink.vehicle import rotation_of_quaternion

pytestmark = pytest.mark.ros
ROOT = Path(__file__).resolve().parents[2]
GOAL = {"pose_topic": str, "tracked_frame": str, "max_duration": dict}
"""Fields of the goal of nav2_msgs/action/FollowObject."""
SERVER = {
    **dict.fromkeys(
        ("controller_frequency", "detection_timeout", "target_loss_hold_timeout",
         "rotate_to_object_timeout", "static_object_timeout", "linear_tolerance",
         "angular_tolerance", "desired_distance", "search_angle", "transform_tolerance",
         "odom_duration", "filter_coef"),
        float,
    ),
    **dict.fromkeys(("base_frame", "fixed_frame", "odom_topic"), str),
    **dict.fromkeys(("skip_orientation", "search_by_rotating"), bool),
    "max_retries": int,
}  # fmt: skip
"""Parameters of opennav_following's server, and their types."""


def test_the_documented_goals_have_the_actions_fields():
    text = (ROOT / "docs/nav2.md").read_text()
    goals = re.findall(r"nav2_msgs/action/FollowObject \\\n\s+\"(\{.*\})\"", text)
    assert goals
    for goal in map(yaml.safe_load, goals):
        assert {name: type(value) for name, value in goal.items()}.items() <= GOAL.items()
        assert goal["pose_topic"] == "/target_pose_stamped"
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == set(GOAL)


def test_the_parameters_are_those_of_the_server():
    (server, given), *others = yaml.safe_load((ROOT / "config/follow.yaml").read_text()).items()
    assert server == "following_server" and not others
    types = {name: type(value) for name, value in given["ros__parameters"].items()}
    assert types.items() <= SERVER.items()
    assert given["ros__parameters"]["skip_orientation"], "the tracker knows no orientation"


def test_the_launch_file_starts_tracker_server_and_manager():
    spec = spec_from_file_location("follow_launch", ROOT / "launch/follow.launch.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    entities = module.generate_launch_description().entities
    nodes = [entity for entity in entities if isinstance(entity, Node)]
    assert [(n.node_package, n.node_executable) for n in nodes] == [
        ("opennav_following", "opennav_following"),
        ("nav2_lifecycle_manager", "lifecycle_manager"),
    ]
    assert sum(isinstance(entity, IncludeLaunchDescription) for entity in entities) == 1
    # A package that is missing ends the launch before there is a tracker that would be left alone.
    assert isinstance(entities[-1], IncludeLaunchDescription)
    own = {entity.name for entity in entities if isinstance(entity, DeclareLaunchArgument)}
    assert own == {"follow_params_file", "cmd_vel_topic", "follow_log_level"}


class FollowingServer:
    """Takes poses as nav2's server does: subscription, age and transform of each.

    Args:
        probe: The node that it lives in.
        goal: Fields of the action's goal.
        parameters: Those of config/follow.yaml.
    """

    def __init__(self, probe, goal, parameters):
        self.probe = probe
        self.parameters = parameters
        self.detected = None
        self.count = 0
        self.buffer = tf2_ros.Buffer()
        self.listener = tf2_ros.TransformListener(self.buffer, probe.node)
        self.subscription = probe.node.create_subscription(
            PoseStamped, goal["pose_topic"], self.on_pose, QoSProfile(depth=1)
        )

    def on_pose(self, message):
        self.detected = message
        self.count += 1

    def position(self):
        """The target in the fixed frame; None if it is not detected now."""
        if self.detected is None:
            return None
        stamp = Time.from_msg(self.detected.header.stamp)
        age = (self.probe.node.get_clock().now() - stamp).nanoseconds / 1e9
        if age > self.parameters["detection_timeout"]:
            return None
        frame = self.parameters["fixed_frame"]
        found = self.buffer.lookup_transform(frame, self.detected.header.frame_id, stamp)
        turn, move = found.transform.rotation, found.transform.translation
        rotation = rotation_of_quaternion((turn.w, turn.x, turn.y, turn.z))
        point = self.detected.pose.position
        place = rotation @ [point.x, point.y, point.z] + [move.x, move.y, move.z]
        return place.tolist()


def test_the_server_gets_a_pose_for_each_image_and_none_while_the_target_is_gone(probe):
    parameters = yaml.safe_load((ROOT / "config/follow.yaml").read_text())
    parameters = parameters["following_server"]["ros__parameters"]
    goal = {"pose_topic": "/shared/target_pose_stamped"}
    server = FollowingServer(probe, goal, parameters)
    infos = probe.node.create_publisher(CameraInfo, "camera_info", 1)
    still = tf2_ros.StaticTransformBroadcaster(probe.node)
    mounted = TransformStamped(child_frame_id="camera")
    mounted.header.frame_id = parameters["fixed_frame"]
    mounted.transform.translation.z = 0.5
    turn = mounted.transform.rotation  # looks along the x axis of odom
    turn.x, turn.y, turn.z, turn.w = -0.5, 0.5, -0.5, 0.5
    still.sendTransform(mounted)
    assert all(accepted for accepted, _ in probe.set(target_size_m=0.4))

    def picture(header):
        k = [300.0, 0.0, 159.5, 0.0, 300.0, 119.5, 0.0, 0.0, 1.0]
        info = CameraInfo(header=header, width=320, height=240, distortion_model="plumb_bob")
        info.k, info.d = k, [0.0] * 5
        infos.publish(info)
        probe.settle(0.02)
        return image_message(probe.scene.image(probe.place), header)

    header = probe.show(make=picture).header
    assert probe.select(probe.scene.box(probe.place), header).success
    probe.until(lambda: probe.show(make=picture) and server.detected, "a pose")
    (publisher,) = probe.node.get_publishers_info_by_topic(goal["pose_topic"])
    assert publisher.topic_type == "geometry_msgs/msg/PoseStamped"
    assert publisher.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    assert server.detected.header.frame_id == "camera"
    before = server.count
    for _ in range(10):
        shown = probe.show(make=picture).header
        probe.until(lambda: server.detected.header.stamp == shown.stamp, "the image's pose")  # noqa: B023
    assert server.count - before >= 10
    ahead, left, up = probe.until(server.position, "the target in odom")
    # The disc of 48 pixels is 0.4 m wide, seen with a focal length of 300 pixels.
    assert ahead == pytest.approx(0.4 * 300 / 48, rel=0.25)
    x, y, w, h = probe.scene.box(probe.place)
    assert left == pytest.approx((159.5 - x - w / 2) / 300 * ahead, abs=0.1)
    assert up == pytest.approx(0.5 + (119.5 - y - h / 2) / 300 * ahead, abs=0.1)

    probe.clear()
    seen = server.count
    for _ in range(3):
        probe.show(make=picture)
    probe.settle(0.2)
    assert server.count == seen
    assert all(accepted for accepted, _ in probe.set(target_size_m=0.0))
    probe.node.destroy_subscription(server.subscription)
    probe.node.destroy_publisher(infos)
