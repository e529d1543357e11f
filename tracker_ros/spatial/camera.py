# SPDX-License-Identifier: Apache-2.0
"""The geometry of a calibrated camera: from pixels to directions and back.

The fields and their meaning are those of ``sensor_msgs/CameraInfo``. Directions are in the optical
frame of REP 103: x right, y down, z forward. Pixel coordinates are those of OpenCV: (0, 0) is the
*centre* of the first pixel, half a pixel from the corner of the image where boxes begin.

Distortion models: ``plumb_bob`` and ``rational_polynomial`` are those of ``cv2.undistortPoints``;
``equidistant``, also called ``fisheye``, is J. Kannala and S. Brandt, "A Generic Camera Model and
Calibration Method for Conventional, Wide-Angle, and Fish-Eye Lenses", PAMI 2006, as in
``cv2.fisheye``. Its inverse is solved here: OpenCV's gives no direction beyond 90 degrees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from tracker_ros.geometry import Box
from tracker_ros.quoting import quote

_COEFFICIENTS = {
    "plumb_bob": (0, 4, 5),
    "rational_polynomial": (0, 5, 8, 12, 14),
    "equidistant": (0, 4),
    "fisheye": (0, 4),
}
_FISHEYE = ("equidistant", "fisheye")
_ITERATIONS = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-6)
_NEWTON_STEPS = 20
_MAX_RESIDUAL_PX = 0.1
# By the longer side of the sensor. A fisheye that sees all around has a focal length of 0.16.
_MIN_FOCAL, _MAX_FOCAL, _MAX_CENTRE = 0.02, 1000.0, 10.0


class CalibrationError(ValueError):
    """A calibration cannot be used; the message names the value and the remedy."""


@dataclass(frozen=True)
class Angles:
    """A direction in the optical frame, radians: azimuth to the right, elevation upward."""

    azimuth: float
    elevation: float


def angles_of(bearing: Sequence[float]) -> Angles:
    """Return azimuth in [-pi, pi] and elevation in [-pi/2, pi/2] of a vector (x, y, z)."""
    x, y, z = bearing
    return Angles(math.atan2(x, z), math.atan2(-y, math.hypot(x, z)))


def box_pixels(box: Box) -> np.ndarray:
    """Return the centre of a box and the centres of its left, right, top and bottom edges.

    Args:
        box: ``(x, y, w, h)``, pixels from the image's corner.

    Returns:
        (5, 2) float64, pixels from the centre of the first pixel.
    """
    x, y, w, h = box
    cx, cy = x + w / 2, y + h / 2
    points = [(cx, cy), (x, cy), (x + w, cy), (cx, y), (cx, y + h)]
    return np.array(points, dtype=np.float64) - 0.5


@dataclass(frozen=True)
class CameraModel:
    """A calibrated camera whose images are as they come from the sensor, or rectified.

    Use `create`, which checks the values.
    """

    width: int  # width of the images, pixels
    height: int  # height of the images, pixels
    # (3, 3) float64, from directions to pixels of the images (binning and region of interest
    # included)
    matrix: np.ndarray
    distortion: np.ndarray  # coefficients of the model; empty without distortion
    fisheye: bool  # whether the model is ``equidistant`` instead of OpenCV's polynomial
    # (3, 3) float64, from the sensor to the optical frame of a rectified stereo pair; the identity
    # for other cameras
    rotation: np.ndarray

    @classmethod
    def create(
        cls,
        size: tuple[int, int],
        k: Sequence[float],
        distortion: Sequence[float] = (),
        model: str = "plumb_bob",
        *,
        r: Sequence[float] = (),
        p: Sequence[float] = (),
        binning: tuple[int, int] = (1, 1),
        roi: tuple[int, int, int, int] = (0, 0, 0, 0),
        rectified: bool = False,
    ) -> CameraModel:
        """Make a camera from the fields of ``sensor_msgs/CameraInfo``.

        Args:
            size: Width and height for which the camera was calibrated, pixels.
            k: Nine numbers, the camera matrix by rows.
            distortion: Coefficients in OpenCV's order.
            model: Name of the distortion model.
            r: Nine numbers, the rectification; none or zeros mean the identity.
            p: Twelve numbers, the projection of rectified images.
            binning: How many pixels of the sensor an image's pixel covers; 0 means 1.
            roi: x, y, width and height of the part of the sensor that the images show, in
                unbinned pixels; a width or height of 0 means all of it.
            rectified: Whether the images are rectified: then ``p`` holds and no distortion.

        Raises:
            CalibrationError: A value cannot be used, or the camera is not calibrated.
        """
        matrix: np.ndarray = np.asarray(k, dtype=np.float64).reshape(-1)
        if rectified:
            matrix = np.asarray(p, dtype=np.float64).reshape(-1)
            matrix = matrix.reshape(3, 4)[:, :3] if matrix.size == 12 else matrix
        name = "p" if rectified else "k"
        _check_matrix(name, matrix, size)
        kind = model.strip().lower()
        coefficients: np.ndarray = np.asarray([] if rectified else distortion, dtype=np.float64)
        _check_distortion(kind, coefficients, rectified)
        rotation = np.eye(3) if rectified else _rotation(r)
        bx, by = (max(1, int(n)) for n in binning)
        x, y, roi_width, roi_height = (int(n) for n in roi)
        if not (roi_width and roi_height):
            x, y, roi_width, roi_height = 0, 0, *size
        scale = np.array([[1 / bx, 0, -x / bx], [0, 1 / by, -y / by], [0, 0, 1]])
        return cls(
            roi_width // bx,
            roi_height // by,
            scale @ matrix.reshape(3, 3),
            coefficients if coefficients.any() else np.empty(0),
            kind in _FISHEYE,
            rotation,
        )

    @classmethod
    def from_info(cls, info: Any, rectified: bool = False) -> CameraModel:
        """Make a camera from a ``sensor_msgs/CameraInfo``, whoever made the message.

        Raises:
            CalibrationError: As `create`.
        """
        roi = info.roi
        return cls.create(
            (info.width, info.height),
            info.k,
            info.d,
            info.distortion_model,
            r=info.r,
            p=info.p,
            binning=(info.binning_x, info.binning_y),
            roi=(roi.x_offset, roi.y_offset, roi.width, roi.height),
            rectified=rectified,
        )

    @property
    def radians_per_pixel(self) -> float:
        """The angle that a pixel in the middle of the image covers."""
        return float(1.0 / math.sqrt(self.matrix[0, 0] * self.matrix[1, 1]))

    def check_image_size(self, width: int, height: int) -> None:
        """Raise CalibrationError if images of this size are not those of the calibration."""
        if abs(width - self.width) > 1 or abs(height - self.height) > 1:
            raise CalibrationError(
                f"camera_info is for images of {self.width}x{self.height} px, but the image has "
                f"{width}x{height}: publish the camera_info of this very image (image_proc's "
                "resize node publishes it with the resized image)"
            )

    def bearings(self, pixels: np.ndarray) -> np.ndarray:
        """Return unit vectors in the optical frame.

        Args:
            pixels: (N, 2), pixels from the centre of the first pixel; may be outside the image.

        Returns:
            (N, 3) float64; NaN where the distortion model has no inverse, far outside.
        """
        pixels = np.asarray(pixels, dtype=np.float64).reshape(-1, 2)
        if self.distortion.size and not self.fisheye:
            undistorted = cv2.undistortPointsIter(
                pixels[:, None], self.matrix, self.distortion, np.eye(3), np.eye(3), _ITERATIONS
            )
            rays = _unit(undistorted[:, 0])
        else:
            offset = pixels - self.matrix[:2, 2]
            y = offset[:, 1] / self.matrix[1, 1]
            x = (offset[:, 0] - self.matrix[0, 1] * y) / self.matrix[0, 0]
            plane = np.stack([x, y], axis=1)
            rays = _fisheye_rays(plane, self.distortion) if self.fisheye else _unit(plane)
        if self.distortion.size:
            error = np.linalg.norm(self._project(rays) - pixels, axis=1)
            rays[~(error <= _MAX_RESIDUAL_PX)] = np.nan
        return rays @ self.rotation.T

    def project(self, points: np.ndarray) -> np.ndarray:
        """Return the pixels (N, 2) at which points (N, 3) of the optical frame are seen.

        NaN for points behind a camera that is no fisheye.
        """
        return self._project(np.asarray(points, dtype=np.float64).reshape(-1, 3) @ self.rotation)

    def _project(self, points: np.ndarray) -> np.ndarray:
        """Return the pixels of points in the sensor's own frame."""
        x, y, z = points.T
        if self.fisheye:
            radius = np.hypot(x, y)
            theta = np.arctan2(radius, z)
            scale = _fisheye_radius(theta, self.distortion) / np.maximum(radius, 1e-12)
            plane = np.stack([x * scale, y * scale], axis=1)
            return plane @ self.matrix[:2, :2].T + self.matrix[:2, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            front = np.where((z > 0)[:, None], points / z[:, None], np.nan)
        zero = np.zeros(3)
        pixels, _ = cv2.projectPoints(front[:, None], zero, zero, self.matrix, self.distortion)
        return np.asarray(pixels[:, 0], dtype=np.float64)


def _check_matrix(name: str, matrix: np.ndarray, size: tuple[int, int]) -> None:
    """Raise CalibrationError unless a camera matrix and the size of its images make sense."""
    remedy = "calibrate the camera (camera_calibration), or remap camera_info to its topic"
    if matrix.size != 9:
        raise CalibrationError(f"camera_info has {matrix.size} numbers in {name}: {remedy}")
    fx, fy = matrix.ravel()[[0, 4]]
    if not np.isfinite(matrix).all() or fx <= 0 or fy <= 0:
        raise CalibrationError(
            f"camera_info has {name} = {matrix.ravel().tolist()}, expected finite numbers and "
            f"positive focal lengths; the camera is not calibrated: {remedy}"
        )
    if min(size) <= 0:
        raise CalibrationError(f"camera_info has a size of {size[0]}x{size[1]} px: {remedy}")
    side, centre = max(size), np.abs(matrix.ravel()[[2, 5]]).max()
    if min(fx, fy) < _MIN_FOCAL * side or max(fx, fy) > _MAX_FOCAL * side:
        raise CalibrationError(
            f"camera_info has focal lengths of {fx:g} and {fy:g} px for {size[0]}x{size[1]} px, "
            f"expected {_MIN_FOCAL * side:g} to {_MAX_FOCAL * side:g} px, pixels and not "
            f"millimetres: {remedy}"
        )
    if centre > _MAX_CENTRE * side:
        raise CalibrationError(
            f"camera_info has a principal point {centre:g} px from the corner of an image of "
            f"{size[0]}x{size[1]} px: {remedy}"
        )


def _rotation(r: Sequence[float]) -> np.ndarray:
    """Return (3, 3) of nine numbers; the identity if there are none, or zeros.

    Raises:
        CalibrationError: They are no rotation.
    """
    numbers: np.ndarray = np.asarray(r, dtype=np.float64).reshape(-1)
    if numbers.size != 9 or not numbers.any():
        return np.eye(3)
    rotation = numbers.reshape(3, 3)
    near = np.isfinite(numbers).all() and np.allclose(rotation @ rotation.T, np.eye(3), atol=0.1)
    if not near or np.linalg.det(rotation) < 0:
        raise CalibrationError(
            f"camera_info has r = {numbers.tolist()}, expected a rotation or zeros: calibrate "
            "the camera again"
        )
    return rotation


def _check_distortion(kind: str, coefficients: np.ndarray, rectified: bool) -> None:
    """Raise CalibrationError unless the coefficients belong to a known model."""
    if rectified or (not kind and not coefficients.any()):
        return
    if kind not in _COEFFICIENTS:
        raise CalibrationError(
            f"camera_info has distortion_model {quote(kind)}, expected one of "
            f"{', '.join(_COEFFICIENTS)}: calibrate with one of them, or use rectified images "
            "with image_rectified true"
        )
    counts = _COEFFICIENTS[kind]
    if coefficients.size not in counts or not np.isfinite(coefficients).all():
        raise CalibrationError(
            f"camera_info has {coefficients.size} coefficients d = {coefficients.tolist()[:16]}, "
            f"expected {' or '.join(map(str, counts))} finite numbers for {kind}: calibrate the "
            "camera again"
        )


def _unit(plane: np.ndarray) -> np.ndarray:
    """Return unit vectors (N, 3) towards points (N, 2) of the plane z = 1."""
    rays: np.ndarray = np.concatenate([plane, np.ones((len(plane), 1))], axis=1)
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def _fisheye_radius(theta: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Return the distance from the principal point, in focal lengths, of rays at an angle."""
    if not k.size:
        return theta
    t2 = theta * theta
    return theta * (1 + t2 * (k[0] + t2 * (k[1] + t2 * (k[2] + t2 * k[3]))))


def _fisheye_rays(plane: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Return unit vectors (N, 3) of points (N, 2) given in focal lengths, by Newton's method."""
    radius = np.hypot(*plane.T)
    theta = np.minimum(radius, math.pi)
    if k.size:
        for _ in range(_NEWTON_STEPS):
            t2 = theta * theta
            slope = 1 + t2 * (3 * k[0] + t2 * (5 * k[1] + t2 * (7 * k[2] + t2 * 9 * k[3])))
            slope = np.where(np.abs(slope) < 1e-6, 1e-6, slope)
            step = (_fisheye_radius(theta, k) - radius) / slope
            theta = np.clip(theta - step, 0.0, math.pi)
            if np.abs(step).max() < 1e-9:
                break
    scale = np.sin(theta) / np.maximum(radius, 1e-12)
    return np.stack([plane[:, 0] * scale, plane[:, 1] * scale, np.cos(theta)], axis=1)
