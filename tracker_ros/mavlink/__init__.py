# SPDX-License-Identifier: Apache-2.0
"""A MAVLink camera component that tracks: the protocol, without ROS."""
