# SPDX-License-Identifier: Apache-2.0
"""Recordings of ROS: the node's own loop over a bag, without a ROS graph."""
