# SPDX-License-Identifier: Apache-2.0
"""From pixels to directions: the same numbers as OpenCV's own projection, for every model."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from tracker_ros.spatial.camera import CalibrationError, CameraModel, angles_of, box_pixels

SIZE = (640, 480)
K = (500.0, 0.0, 310.0, 0.0, 510.0, 250.0, 0.0, 0.0, 1.0)
MATRIX = np.array(K).reshape(3, 3)
PLUMB_BOB = (-0.3, 0.1, 0.001, -0.0005, -0.02)
RATIONAL = (0.1, 0.2, 0.001, -0.0005, -0.02, 0.3, 0.1, 0.01)
FISHEYE = (0.05, -0.01, 0.003, -0.001)


def random_points(count: int = 200) -> np.ndarray:
    """Points in front of the camera, all in its image."""
    rng = np.random.default_rng(1)
    plane = rng.uniform((-0.5, -0.4), (0.5, 0.4), (count, 2))
    depth = rng.uniform(0.5, 50.0, (count, 1))
    return np.concatenate([plane, np.ones((count, 1))], axis=1) * depth


def unit(points: np.ndarray) -> np.ndarray:
    return points / np.linalg.norm(points, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("model", "distortion"),
    [("plumb_bob", ()), ("", ()), ("plumb_bob", PLUMB_BOB), ("rational_polynomial", RATIONAL)],
)
def test_bearings_invert_opencvs_projection(model, distortion):
    camera = CameraModel.create(SIZE, K, distortion, model)
    points, zero = random_points(), np.zeros(3)
    pixels, _ = cv2.projectPoints(points, zero, zero, MATRIX, np.array(distortion))
    assert np.allclose(camera.bearings(pixels[:, 0]), unit(points), atol=1e-6)
    assert np.allclose(camera.project(points), pixels[:, 0], atol=1e-6)


@pytest.mark.parametrize("model", ["equidistant", "fisheye"])
def test_bearings_invert_opencvs_fisheye_projection(model):
    camera = CameraModel.create(SIZE, K, FISHEYE, model)
    points = random_points()
    plane = points[:, None, :2] / points[:, None, 2:]
    pixels = cv2.fisheye.distortPoints(plane, MATRIX, np.array(FISHEYE))
    assert np.allclose(camera.bearings(pixels[:, 0]), unit(points), atol=1e-6)
    assert np.allclose(camera.project(points), pixels[:, 0], atol=1e-6)


def test_a_fisheye_sees_behind_its_image_plane():
    camera = CameraModel.create(SIZE, (180, 0, 320, 0, 180, 240, 0, 0, 1), (), "equidistant")
    angle = math.radians(100)
    (bearing,) = camera.bearings(np.array([[320 + 180 * angle, 240]]))
    assert bearing == pytest.approx([math.sin(angle), 0, math.cos(angle)], abs=1e-9)


def test_a_pixel_that_the_distortion_never_reaches_has_no_bearing():
    camera = CameraModel.create(SIZE, K, (-0.4, 0.0, 0.0, 0.0, 0.0))
    near, far = camera.bearings(np.array([[320.0, 240.0], [5000.0, 240.0]]))
    assert np.isfinite(near).all()
    assert np.isnan(far).all()


def test_binning_and_region_of_interest_keep_the_direction():
    whole = CameraModel.create(SIZE, K, PLUMB_BOB)
    part = CameraModel.create(
        SIZE, K, PLUMB_BOB, binning=(2, 2), roi=(100, 60, 400, 300), rectified=False
    )
    assert (part.width, part.height) == (200, 150)
    pixels = np.array([[150.0, 100.0], [420.0, 333.0]])
    seen = (pixels - (100, 60)) / 2
    # Distortion acts on the sensor's own pixels, whatever part of them is sent.
    assert np.allclose(part.bearings(seen), whole.bearings(pixels), atol=1e-6)
    part.check_image_size(200, 150)
    with pytest.raises(CalibrationError):
        part.check_image_size(640, 480)


def test_rectified_images_follow_p_without_distortion():
    p = (400.0, 0, 320.0, 0, 0, 400.0, 240.0, 0, 0, 0, 1, 0)
    camera = CameraModel.create(SIZE, K, PLUMB_BOB, p=p, rectified=True)
    (bearing,) = camera.bearings(np.array([[720.0, 240.0]]))
    assert bearing == pytest.approx([math.sqrt(0.5), 0, math.sqrt(0.5)])


def test_r_turns_bearings_into_the_rectified_frame():
    turn = cv2.Rodrigues(np.array([0.0, 0.1, 0.0]))[0]
    camera = CameraModel.create(SIZE, K, r=turn.ravel())
    (bearing,) = camera.bearings(np.array([[310.0, 250.0]]))
    assert bearing == pytest.approx([math.sin(0.1), 0, math.cos(0.1)])
    assert camera.project(bearing[None])[0] == pytest.approx([310.0, 250.0])


@pytest.mark.parametrize(
    "wrong",
    [
        {"k": (0.0,) * 9},
        {"k": (math.nan, *K[1:])},
        {"k": K[:8]},
        {"size": (0, 480)},
        {"distortion": (0.1, 0.2, 0.3)},
        {"distortion": (math.nan,) * 5},
        {"model": "thin_prism"},
        {"rectified": True},
        {"r": (5.0,) * 9},
        {"r": (math.inf,) + (0.0,) * 8},
        {"r": (1.0, 0, 0, 0, 1.0, 0, 0, 0, -1.0)},
        {"k": (0.004, 0, 320.0, 0, 0.004, 240.0, 0, 0, 1)},
        {"k": (1e300, *K[1:])},
        {"k": (*K[:2], -1e9, *K[3:])},
    ],
)
def test_a_calibration_that_cannot_be_used_is_refused(wrong):
    with pytest.raises(CalibrationError):
        CameraModel.create(**{"size": SIZE, "k": K, "distortion": PLUMB_BOB, **wrong})


@pytest.mark.parametrize(
    ("vector", "azimuth", "elevation"),
    [
        ((0, 0, 1), 0, 0),
        ((1, 0, 1), math.pi / 4, 0),
        ((0, -1, 1), 0, math.pi / 4),
        ((-1, 0, 0), -math.pi / 2, 0),
        ((0, 0, -1), math.pi, 0),
    ],
)
def test_azimuth_is_to_the_right_and_elevation_upward(vector, azimuth, elevation):
    angles = angles_of(vector)
    assert (angles.azimuth, angles.elevation) == pytest.approx((azimuth, elevation))


def test_the_centre_of_a_box_over_one_pixel_is_that_pixels_centre():
    assert box_pixels((3.0, 5.0, 1.0, 1.0))[0].tolist() == [3.0, 5.0]
