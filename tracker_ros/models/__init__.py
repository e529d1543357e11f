# SPDX-License-Identifier: Apache-2.0
"""Networks and the trackers built on them; nothing here knows of ROS."""
