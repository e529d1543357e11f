# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 programs: messages in, one call into the package, messages out."""
