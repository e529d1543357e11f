# SPDX-License-Identifier: Apache-2.0
"""Stand-in for ``ros2 launch`` where ROS comes from Python packages; never installed on a ROS."""
