# SPDX-License-Identifier: Apache-2.0
"""Pack where targets are as markers, for RViz and Foxglove's 3D panel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from tracker_ros.following.frames import TargetReport
from tracker_ros.following.target_state import TargetState
from tracker_ros.nodes.spatial.messages import Place

__all__ = ["markers_message"]

_LIFETIME_S = 1
_UNKNOWN_SIZE_M = 0.3
_COLOURS = {
    TargetState.TRACKING: (0.24, 0.81, 0.56),
    TargetState.UNCERTAIN: (0.96, 0.72, 0.24),
}
_MIN_SPEED = 0.05
_SHAFT, _HEAD = 0.04, 0.1


def markers_message(header: Header, places: Sequence[Place]) -> MarkerArray:
    """Pack a ball at each target's position, its text, and an arrow for the way of one second.

    The ball is as large as the target appears. Markers vanish by themselves after a second without
    news, so those of a lost target do not stay.

    Args:
        header: Time and frame.
        places: Where the targets are.
    """
    message = MarkerArray()
    for place in places:
        target, state, seen = place.target, place.state, place.size
        size = _UNKNOWN_SIZE_M if seen is None else max(seen.x, seen.y)
        ball = _marker(header, "target", target, Marker.SPHERE)
        ball.pose, ball.scale = place.pose.pose, Vector3(x=size, y=size, z=size)
        text = _marker(header, "label", target, Marker.TEXT_VIEW_FACING)
        text.pose, text.scale = place.pose.pose, Vector3(z=0.4 * size)
        text.text = _words(target)
        message.markers += [ball, text]
        if float(np.linalg.norm(state.velocity)) >= _MIN_SPEED:
            arrow = _marker(header, "velocity", target, Marker.ARROW)
            arrow.points = [place.point, _point(state.position + state.velocity)]
            arrow.scale = Vector3(x=_SHAFT, y=_HEAD)
            message.markers.append(arrow)
    return message


def _marker(header: Header, kind: str, target: TargetReport, shape: int) -> Marker:
    """Return a marker without place and size; its namespace tells what it shows of whom."""
    red, green, blue = _COLOURS[target.state]
    return Marker(
        header=header,
        ns=f"{kind}/{target.target_id}",
        type=shape,
        action=Marker.ADD,
        lifetime=Duration(sec=_LIFETIME_S),
        color=ColorRGBA(r=red, g=green, b=blue, a=0.8),
    )


def _point(position: np.ndarray) -> Point:
    x, y, z = map(float, position)
    return Point(x=x, y=y, z=z)


def _words(target: TargetReport) -> str:
    words = [f"#{target.target_id}", target.label, f"{target.score:.2f}"]
    return " ".join(word for word in words if word)
