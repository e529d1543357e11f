# SPDX-License-Identifier: Apache-2.0
"""Start the tracker and nav2's following server, so that a robot drives after the target.

    ros2 launch tracker_ros follow.launch.py image_topic:=/camera/image_raw \
        camera_info_topic:=/camera/camera_info

Every argument of ``track.launch.py`` can be given. docs/nav2.md says how to select a target and
send the goal. Needs the package ``opennav_following``, part of nav2.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

SHARE = Path(get_package_share_directory("tracker_ros"))

ARGUMENTS = (
    ("follow_params_file", str(SHARE / "config" / "follow.yaml"),
     "File with parameters of nav2's following server."),
    ("cmd_vel_topic", "cmd_vel", "Topic of the robot's velocity."),
    ("follow_log_level", "info", "Lowest severity that the following server logs."),
)  # fmt: skip


def generate_launch_description():
    """Return the description that ``ros2 launch`` runs."""
    tracker = PythonLaunchDescriptionSource(str(SHARE / "launch" / "track.launch.py"))
    value = LaunchConfiguration
    logging = ["--log-level", value("follow_log_level")]
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, default, text in ARGUMENTS
            ),
            Node(
                package="opennav_following",
                executable="opennav_following",
                name="following_server",
                parameters=[value("follow_params_file")],
                remappings=[("cmd_vel", value("cmd_vel_topic"))],
                output="screen",
                ros_arguments=logging,
            ),
            Node(
                package="nav2_lifecycle_manager",
                executable="lifecycle_manager",
                name="lifecycle_manager_following",
                parameters=[{"autostart": True, "node_names": ["following_server"]}],
                output="screen",
                ros_arguments=logging,
            ),
            # Last: where nav2 is missing, launch fails before the tracker has been started.
            IncludeLaunchDescription(tracker),
        ]
    )
