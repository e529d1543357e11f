# SPDX-License-Identifier: Apache-2.0
"""Where one target is, from its boxes: direction, distance, position and velocity, now or soon."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tracker_ros.geometry import Box
from tracker_ros.io.depth_images import DepthImage
from tracker_ros.spatial.camera import Angles, CameraModel, angles_of, box_pixels
from tracker_ros.spatial.depth import DepthEstimate, target_depth, target_region
from tracker_ros.spatial.motion import ConstantVelocityFilter, MotionEstimate
from tracker_ros.tracker import TrackResult

# Noise of boxes: pixels, and share of the box's sides (mean side for the centre).
_PIXEL_NOISE, _CENTRE_NOISE, _SIZE_NOISE = 0.5, 0.02, 0.04
# What a target may do within a second: box in mean sides, distance in metres.
_BOX_ACCELERATION, _BOX_SPEED = 4.0, 3.0
_ACCELERATION, _SPEED = 2.0, 2.0
_SIZE_UNCERTAINTY = 0.15
"""Share by which the apparent size of a target of known size may be wrong: it turns, it bends."""


@dataclass(frozen=True)
class Distance:
    """How far away a target is."""

    metres: float  # from the camera, along the bearing
    variance: float  # metres squared
    by_depth: bool  # whether it was measured, instead of derived from the target's known size


@dataclass(frozen=True)
class Direction:
    """In which direction a target is, in the camera's optical frame."""

    bearing: np.ndarray  # (3,) unit vector
    angles: Angles  # the same as angles
    rates: Angles  # their changes, radians per second
    variance: float  # of each angle, radians squared
    width: float  # angle that the box covers from left to right, radians
    height: float  # angle that the box covers from top to bottom, radians


@dataclass(frozen=True)
class Measurement:
    """Where one target is in one image, in the camera's optical frame."""

    direction: Direction | None = None  # none without a calibration
    distance: Distance | None = None  # none if neither depth nor the target's size is known
    position: np.ndarray | None = None  # (3,) metres; None without a distance
    covariance: np.ndarray | None = None  # (3, 3) of the position


class TargetLocator:
    """Locates one target in the frames of one camera.

    Call the ``observe`` methods with what a frame shows, then ask where the target is at any time.
    """

    def __init__(self) -> None:
        self._box = ConstantVelocityFilter()
        self._range = ConstantVelocityFilter()
        self._position = ConstantVelocityFilter()
        self._frame = ""

    def observe_box(self, time_s: float, box: Box) -> None:
        """Take the box ``(x, y, w, h)`` of a frame, pixels."""
        x, y, w, h = box
        side = max(math.sqrt(max(w, 1.0) * max(h, 1.0)), 4.0)
        centre, size = (_PIXEL_NOISE + share * side for share in (_CENTRE_NOISE, _SIZE_NOISE))
        self._box.update(
            time_s,
            np.array([x + w / 2, y + h / 2, w, h]),
            np.diag(np.square([centre, centre, size, size])),
            np.array([1.0, 1.0, 0.5, 0.5]) * _BOX_ACCELERATION * side,
            np.array([1.0, 1.0, 0.5, 0.5]) * _BOX_SPEED * side,
        )

    def observe_distance(self, time_s: float, distance: Distance) -> None:
        """Take the distance in a frame."""
        self._range.update(
            time_s,
            np.array([distance.metres]),
            np.array([[distance.variance]]),
            np.array([_ACCELERATION]),
            np.array([_SPEED]),
        )

    def observe_position(
        self, time_s: float, position: np.ndarray, covariance: np.ndarray, frame: str
    ) -> None:
        """Take the position (3,) in a frame of coordinates, metres, and its covariance (3, 3)."""
        if frame != self._frame:
            self._position, self._frame = ConstantVelocityFilter(), frame
        self._position.update(
            time_s, position, covariance, np.full(3, _ACCELERATION), np.full(3, _SPEED)
        )

    def measure(
        self,
        time_s: float,
        result: TrackResult,
        camera: CameraModel | None,
        depth: DepthImage | None,
        size_m: float = 0.0,
    ) -> Measurement:
        """Take the result of a frame, and return where the target is in it.

        Args:
            time_s: Time of the frame, seconds.
            result: The tracker's result.
            camera: The camera; None if it is not calibrated.
            depth: The depth image that belongs to the frame, if there is one.
            size_m: What the longer side of the box shows, metres; 0 if unknown.
        """
        self.observe_box(time_s, result.box)
        direction = None if camera is None else self.direction(camera, time_s, result.box)
        if direction is None:
            return Measurement()
        distance = self._distance_by_depth(time_s, result, direction, depth)
        if distance is None and size_m > 0:
            distance = distance_by_size(direction, size_m)
        if distance is None:
            return Measurement(direction)
        self.observe_distance(time_s, distance)
        position, covariance = position_of(direction.bearing, direction.variance, distance)
        return Measurement(direction, distance, position, covariance)

    def _distance_by_depth(
        self,
        time_s: float,
        result: TrackResult,
        direction: Direction,
        depth: DepthImage | None,
    ) -> Distance | None:
        """Return the distance in a depth image; None if it shows none."""
        if depth is None:
            return None
        known, mask = self.range_at(time_s), result.mask
        expected = None if known is None else float(known.position[0] * direction.bearing[2])
        region = target_region(result.box, depth.width, depth.height, mask)
        if region is None:
            return None
        left, top, right, bottom = region
        inside = None if mask is None else mask[top:bottom, left:right]
        estimate = target_depth(depth.region(region), inside, expected)
        return None if estimate is None else distance_by_depth(direction.bearing, estimate)

    def box_at(self, time_s: float) -> Box | None:
        """Return the box at a time; None if none has been observed."""
        estimate = self._box.at(time_s)
        if estimate is None:
            return None
        cx, cy, w, h = estimate.position.tolist()
        w, h = max(w, 1.0), max(h, 1.0)
        return (cx - w / 2, cy - h / 2, w, h)

    def range_at(self, time_s: float) -> MotionEstimate | None:
        """Return the distance (1,) at a time and its rate; None if none has been observed."""
        return self._range.at(time_s)

    def position_at(self, time_s: float) -> MotionEstimate | None:
        """Return position and velocity at a time, in the frame of the observations."""
        return self._position.at(time_s)

    def direction(
        self, camera: CameraModel, time_s: float, box: Box | None = None
    ) -> Direction | None:
        """Return the direction of a box; None where the camera's model has none.

        Args:
            camera: The camera.
            time_s: For which time, seconds.
            box: The box at that time; None takes the one that is predicted.
        """
        box = self.box_at(time_s) if box is None else box
        motion = self._box.at(time_s)
        if box is None or motion is None:
            return None
        pixels = np.vstack([box_pixels(box), [0.0, 0.0]])
        short = 0.01  # seconds: long enough for the numerics, short enough for a straight line
        pixels[5] = pixels[0] + short * motion.velocity[:2]
        rays = camera.bearings(pixels)
        if not np.isfinite(rays[0]).all():
            return None
        now, soon = angles_of(rays[0].tolist()), angles_of(rays[5].tolist())
        turn = math.remainder(soon.azimuth - now.azimuth, math.tau)
        per_pixel = camera.radians_per_pixel
        variance = float(motion.position_covariance[0, 0]) * per_pixel**2
        return Direction(
            rays[0],
            now,
            Angles(turn / short, (soon.elevation - now.elevation) / short),
            variance,
            _angle(rays[1], rays[2]),
            _angle(rays[3], rays[4]),
        )


def distance_by_depth(bearing: np.ndarray, estimate: DepthEstimate) -> Distance | None:
    """Return the distance of a surface whose depth along the optical axis is known.

    None if the bearing does not point forward.
    """
    forward = float(bearing[2])
    if forward < 1e-3:
        return None
    return Distance(estimate.depth / forward, estimate.variance / forward**2, True)


def distance_by_size(direction: Direction, size_m: float) -> Distance | None:
    """Return the distance at which something of a known size appears as large as the target.

    Args:
        direction: Where the target is.
        size_m: What the longer side of the box shows, metres.
    """
    angle = max(direction.width, direction.height)
    if not 0.0 < angle < math.pi:
        return None
    metres = size_m / 2 / math.tan(angle / 2)
    return Distance(metres, (metres * _SIZE_UNCERTAINTY) ** 2, False)


def position_of(
    bearing: np.ndarray, angle_variance: float, distance: Distance
) -> tuple[np.ndarray, np.ndarray]:
    """Return the position (3,) in the optical frame, metres, and its covariance (3, 3)."""
    along = np.outer(bearing, bearing)
    across = (np.eye(3) - along) * (distance.metres**2 * angle_variance)
    return bearing * distance.metres, along * distance.variance + across


def _angle(first: np.ndarray, second: np.ndarray) -> float:
    """Return the angle between two unit vectors, radians; 0 if one is unknown."""
    (ax, ay, az), (bx, by, bz) = first.tolist(), second.tolist()  # faster than np.cross
    cross = math.hypot(ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx)
    angle = math.atan2(cross, ax * bx + ay * by + az * bz)
    return angle if math.isfinite(angle) else 0.0
