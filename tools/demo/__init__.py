# SPDX-License-Identifier: Apache-2.0
"""`make demo`: real footage followed through the ROS graph, recorded and judged."""
