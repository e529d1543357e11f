# SPDX-License-Identifier: Apache-2.0
"""``vision_msgs/BoundingBox2D`` to the package's boxes and back."""

from __future__ import annotations

import numpy as np
from vision_msgs.msg import BoundingBox2D

from tracker_ros.boxes import Box, cxcywh_to_xywh, xywh_to_cxcywh

__all__ = ["bounding_box_of", "box_of"]


def bounding_box_of(box: Box) -> BoundingBox2D:
    """Pack ``(x, y, w, h)``, pixels; the message has the centre where the box has its corner."""
    message = BoundingBox2D()
    cx, cy, width, height = xywh_to_cxcywh(np.array(box, dtype=np.float64)).tolist()
    message.center.position.x, message.center.position.y = cx, cy
    message.size_x, message.size_y = width, height
    return message


def box_of(message: BoundingBox2D) -> Box:
    """Unpack to ``(x, y, w, h)``, pixels, top-left corner; the angle is not read."""
    centre = message.center.position
    cxcywh = np.array([centre.x, centre.y, message.size_x, message.size_y], dtype=np.float64)
    x, y, w, h = cxcywh_to_xywh(cxcywh).tolist()
    return (x, y, w, h)
