# SPDX-License-Identifier: Apache-2.0
"""What nav2's following server is given: goal, parameters, topic, type, frame, stamps and rate.

nav2 is not part of the development environment. Its public definitions stand here as data.
"""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import yaml
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch_ros.actions import Node

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
    own = {entity.name for entity in entities if isinstance(entity, DeclareLaunchArgument)}
    assert own == {"follow_params_file", "cmd_vel_topic", "follow_log_level"}
