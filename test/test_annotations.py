# SPDX-License-Identifier: Apache-2.0
"""Targets as Foxglove's annotations and as markers, through real messages, without a node."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.ros
BOX = (np.float32(10.0), 20.0, 30.0, 40.0)


@pytest.fixture(autouse=True)
def checked(monkeypatch):
    """Makes messages refuse values of other types, which rclpy would send as other numbers."""
    monkeypatch.setenv("ROS_PYTHON_CHECK_FIELDS", "1")


def report(state, target_id, score=0.5, box=BOX):
    from tracker_ros.following.frames import TargetReport
    from tracker_ros.tracker import TrackResult

    result = None if box is None else TrackResult(box, score, None, (0.0, 0.0, 1.0, 1.0))
    return TargetReport(state, target_id, "car", score=score, result=result)


def header():
    from builtin_interfaces.msg import Time
    from std_msgs.msg import Header

    return Header(stamp=Time(sec=7), frame_id="camera")


def test_visible_targets_are_outlined_and_named():
    from rclpy.serialization import deserialize_message, serialize_message

    from tracker_ros.following.target_state import TargetState
    from tracker_ros.nodes.annotations import annotations_message, annotations_type

    targets = [report(TargetState.UNCERTAIN, "3"), report(TargetState.LOST, "4", box=None)]
    sent = serialize_message(annotations_message(header(), targets))
    drawn = deserialize_message(sent, annotations_type())
    (outline,), (text,) = drawn.points, drawn.texts
    assert outline.type == outline.LINE_LOOP
    corners = [(10.0, 20.0), (40.0, 20.0), (40.0, 60.0), (10.0, 60.0)]
    assert [(point.x, point.y) for point in outline.points] == corners
    assert outline.timestamp.sec == text.timestamp.sec == 7
    assert text.text == "#3 car 0.50 uncertain"
    assert (text.position.x, text.position.y) == corners[0]


def test_without_a_visible_target_the_picture_is_cleared():
    from tracker_ros.following.target_state import TargetState
    from tracker_ros.nodes.annotations import annotations_message

    lost = report(TargetState.LOST, "4")
    for targets in ([], [lost]):
        message = annotations_message(header(), targets)
        assert (message.points, message.texts, message.circles) == ([], [], [])


def test_a_marker_is_where_the_target_is_and_as_large():
    from rclpy.serialization import deserialize_message, serialize_message
    from visualization_msgs.msg import Marker, MarkerArray

    from tracker_ros.following.target_state import TargetState
    from tracker_ros.nodes.spatial.markers import markers_message
    from tracker_ros.nodes.spatial.messages import Place
    from tracker_ros.spatial.motion import MotionEstimate
    from tracker_ros.spatial.target_locator import Measurement

    still, moving = np.zeros(3), np.array([0.0, 0.0, 2.0])
    where = np.array([1.0, 2.0, 3.0])
    states = [MotionEstimate(where, v, np.eye(3), np.eye(3)) for v in (still, moving)]
    targets = [report(TargetState.TRACKING, str(i)) for i in range(2)]
    places = [Place(t, "car", s, Measurement()) for t, s in zip(targets, states, strict=True)]
    sent = serialize_message(markers_message(header(), places))
    markers = deserialize_message(sent, MarkerArray).markers
    kinds = [Marker.SPHERE, Marker.TEXT_VIEW_FACING]
    assert [marker.type for marker in markers] == [*kinds, *kinds, Marker.ARROW]
    assert len({marker.ns for marker in markers}) == len(markers)
    ball, arrow = markers[0], markers[-1]
    assert (ball.pose.position.x, ball.pose.position.y, ball.pose.position.z) == (1.0, 2.0, 3.0)
    assert ball.scale.x == ball.scale.y == ball.scale.z > 0
    assert (arrow.points[0].z, arrow.points[1].z) == (3.0, 5.0)
    assert all(0 < marker.lifetime.sec <= 2 for marker in markers), "they vanish by themselves"
