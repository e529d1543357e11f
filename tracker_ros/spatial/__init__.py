# SPDX-License-Identifier: Apache-2.0
"""Where targets are in space: camera geometry, depth, motion; no ROS, no torch."""
