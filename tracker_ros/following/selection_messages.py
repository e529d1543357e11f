# SPDX-License-Identifier: Apache-2.0
"""Boxes and requests in messages of ``vision_msgs`` and our own, whoever made the message.

The functions take the message classes of ROS and those that rosbags makes for bags.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tracker_ros.following.selection import Selection, SelectionCode, SelectionRefused
from tracker_ros.geometry import Box, cxcywh_to_xywh
from tracker_ros.io.image_messages import nanoseconds


def box_of(message: Any) -> Box:
    """Unpack a BoundingBox2D as ``(x, y, w, h)``, pixels, top-left corner; ignores the angle."""
    centre = message.center.position
    cxcywh = np.array([centre.x, centre.y, message.size_x, message.size_y], dtype=np.float64)
    x, y, w, h = cxcywh_to_xywh(cxcywh).tolist()
    return (x, y, w, h)


def selection_from(header: Any, bbox: Any, label: str, append: bool = False) -> Selection:
    """Unpack a request to follow a box; raise SelectionRefused if it is rotated."""
    theta = bbox.center.theta
    if theta != 0.0 or not math.isfinite(theta):
        raise SelectionRefused(
            SelectionCode.INVALID_BOX,
            f"box is rotated (theta {theta:g} rad, expected 0): give the upright box around it",
        )
    stamp_ns = nanoseconds(header.stamp)
    return Selection(box_of(bbox), None, stamp_ns, header.frame_id, label, append)


def selection_from_detection(message: Any, append: bool = False) -> Selection:
    """Unpack a request to follow the box of a Detection2D; see `selection_from`."""
    label = message.results[0].hypothesis.class_id if message.results else ""
    return selection_from(message.header, message.bbox, label, append)
