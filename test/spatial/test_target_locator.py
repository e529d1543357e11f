# SPDX-License-Identifier: Apache-2.0
"""Direction, distance and position of one target, checked by projecting known points."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tracker_ros.spatial.camera import CameraModel
from tracker_ros.spatial.depth import DepthEstimate
from tracker_ros.spatial.target_locator import (
    Distance,
    TargetLocator,
    distance_by_depth,
    distance_by_size,
    position_of,
)
from tracker_ros.spatial.transform import Transform

K = (500.0, 0.0, 319.5, 0.0, 500.0, 239.5, 0.0, 0.0, 1.0)
CAMERA = CameraModel.create((640, 480), K, (-0.2, 0.05, 0.0, 0.0, 0.0))


def box_of(point, size=(0.4, 1.0)):
    """The box of an upright rectangle around a point of the optical frame."""
    x, y, z = point
    half_w, half_h = size[0] / 2, size[1] / 2
    corners = [(x - half_w, y, z), (x + half_w, y, z), (x, y - half_h, z), (x, y + half_h, z)]
    (left, _), (right, _), (_, top), (_, bottom) = CAMERA.project(np.array(corners)) + 0.5
    cx, cy = CAMERA.project(np.array([point]))[0] + 0.5
    return (cx - (right - left) / 2, cy - (bottom - top) / 2, right - left, bottom - top)


def walk(time_s):
    return np.array([1.0 * time_s - 1.0, 0.2, 5.0 - 0.5 * time_s])


def follow(seconds=2.0, rate=30.0):
    locator = TargetLocator()
    for index in range(round(seconds * rate) + 1):
        time_s = index / rate
        point = walk(time_s)
        locator.observe_box(time_s, box_of(point))
        metres = float(np.linalg.norm(point))
        locator.observe_distance(time_s, Distance(metres, 0.01, True))
        locator.observe_position(time_s, point, np.eye(3) * 0.01, "camera")
    return locator, seconds


def test_the_direction_is_that_of_the_point():
    locator, end = follow()
    direction = locator.direction(CAMERA, end, box_of(walk(end)))
    point = walk(end)
    assert direction.bearing == pytest.approx(point / np.linalg.norm(point), abs=1e-6)
    assert direction.angles.azimuth == pytest.approx(math.atan2(point[0], point[2]), abs=1e-6)
    assert direction.height == pytest.approx(2 * math.atan(0.5 / point[2]), rel=0.05)
    assert 0 < math.sqrt(direction.variance) < 5 / 500


def test_the_rates_are_those_of_the_angles():
    locator, end = follow()
    rates = locator.direction(CAMERA, end).rates
    before, after = (walk(end + dt) for dt in (-0.01, 0.01))
    azimuth = (math.atan2(after[0], after[2]) - math.atan2(before[0], before[2])) / 0.02
    assert rates.azimuth == pytest.approx(azimuth, rel=0.1)


def test_box_distance_and_position_are_predicted():
    locator, end = follow()
    later = end + 0.12
    truth = box_of(walk(later))
    stale = box_of(walk(end))
    assert abs(locator.box_at(later)[0] - truth[0]) < 0.15 * abs(stale[0] - truth[0])
    state = locator.position_at(later)
    assert state.position == pytest.approx(walk(later), abs=0.02)
    assert state.velocity == pytest.approx([1.0, 0.0, -0.5], abs=0.05)
    metres = np.linalg.norm(walk(later))
    assert locator.range_at(later).position[0] == pytest.approx(metres, rel=0.01)


def test_depth_and_bearing_give_the_point_back():
    point = np.array([1.0, -0.5, 4.0])
    bearing = CAMERA.bearings(CAMERA.project(point[None]))[0]
    distance = distance_by_depth(bearing, DepthEstimate(4.0, 0.04))
    position, covariance = position_of(bearing, 1e-4, distance)
    assert position == pytest.approx(point, abs=1e-6)
    along = point / np.linalg.norm(point)
    assert along @ covariance @ along == pytest.approx(0.04 / along[2] ** 2)
    across = np.cross(along, [0, 1, 0])
    across /= np.linalg.norm(across)
    assert across @ covariance @ across == pytest.approx(1e-4 * distance.metres**2)
    assert distance_by_depth(np.array([1.0, 0.0, 0.0]), DepthEstimate(4.0, 0.04)) is None


def test_a_known_size_gives_the_distance():
    locator, end = follow()
    direction = locator.direction(CAMERA, end, box_of(walk(end)))
    distance = distance_by_size(direction, 1.0)
    assert distance.metres == pytest.approx(np.linalg.norm(walk(end)), rel=0.05)
    assert not distance.by_depth


def test_another_frame_of_coordinates_starts_a_new_motion():
    locator, end = follow()
    locator.observe_position(end + 0.03, np.array([10.0, 0.0, 0.0]), np.eye(3), "odom")
    assert locator.position_at(end + 0.03).velocity.tolist() == [0, 0, 0]


def test_a_transform_turns_position_and_covariance():
    s = math.sqrt(0.5)
    turn = Transform.create((1, 2, 3), (0, 0, s, s))  # 90 degrees about z
    position, covariance = turn.apply(np.array([1.0, 0.0, 0.0]), np.diag([4.0, 1.0, 1.0]))
    assert position == pytest.approx([1, 3, 3])
    assert covariance == pytest.approx(np.diag([1.0, 4.0, 1.0]))


@pytest.mark.parametrize("quaternion", [(0, 0, 0, 0), (math.nan, 0, 0, 1)])
def test_a_quaternion_that_is_none_is_refused(quaternion):
    with pytest.raises(ValueError, match="quaternion"):
        Transform.create((0, 0, 0), quaternion)
