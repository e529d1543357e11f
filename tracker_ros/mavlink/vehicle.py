# SPDX-License-Identifier: Apache-2.0
"""Where the vehicle is and how it is turned, as its autopilot tells; positions on the earth."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from tracker_ros.spatial.transform import Transform

Quaternion = tuple[float, float, float, float]

OPTICAL_TO_FORWARD = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
"""From the optical frame (right, down, forward) to forward, right, down."""

_KEPT = 200
_ATTITUDE_NEAR_S = 0.5
_POSITION_AGE_S = 2.0
_EQUATOR_M = 6378137.0
_ECCENTRICITY_SQUARED = 6.69437999014e-3  # WGS84


@dataclass(frozen=True)
class GeoPosition:
    """A position: latitude and longitude in degrees (WGS84), altitude in metres above the sea."""

    latitude: float
    longitude: float
    altitude: float


class VehicleState:
    """The latest attitudes and the latest position. Times are in seconds, those of arrival."""

    def __init__(self) -> None:
        self._attitudes: deque[tuple[float, Quaternion]] = deque(maxlen=_KEPT)
        self._position: tuple[float, GeoPosition, np.ndarray] | None = None

    def set_attitude(self, time_s: float, quaternion: Quaternion) -> None:
        """Add an attitude: quaternion (w, x, y, z) from the body to north, east, down.

        One that is not finite, or zero, is left out.
        """
        norm = math.hypot(*quaternion)
        if math.isfinite(norm) and norm > 0.5:
            w, x, y, z = (value / norm for value in quaternion)
            self._attitudes.append((time_s, (w, x, y, z)))

    def set_position(
        self, time_s: float, position: GeoPosition, velocity_ned: tuple[float, float, float]
    ) -> None:
        """Set position and velocity (north, east, down, m/s)."""
        self._position = (time_s, position, np.array(velocity_ned))

    def attitude_at(self, time_s: float) -> Quaternion | None:
        """Return the attitude nearest to a time; None without one within half a second."""
        if not self._attitudes:
            return None
        when, quaternion = min(self._attitudes, key=lambda entry: abs(entry[0] - time_s))
        return quaternion if abs(when - time_s) <= _ATTITUDE_NEAR_S else None

    def position_at(self, time_s: float) -> GeoPosition | None:
        """Return the position at a time, by the latest velocity; None if it is too old."""
        if self._position is None:
            return None
        when, position, velocity = self._position
        if abs(time_s - when) > _POSITION_AGE_S:
            return None
        return moved(position, velocity * (time_s - when))


def moved(position: GeoPosition, north_east_down: np.ndarray) -> GeoPosition:
    """Return the position that is so many metres away; exact for distances below some 10 km."""
    north, east, down = map(float, north_east_down)
    sine = math.sin(math.radians(position.latitude))
    root = math.sqrt(1.0 - _ECCENTRICITY_SQUARED * sine * sine)
    meridian = _EQUATOR_M * (1.0 - _ECCENTRICITY_SQUARED) / root**3 + position.altitude
    normal = _EQUATOR_M / root + position.altitude
    latitude = position.latitude + math.degrees(north / meridian)
    parallel = normal * max(math.cos(math.radians(latitude)), 1e-6)  # of the new latitude
    longitude = position.longitude + math.degrees(east / parallel)
    return GeoPosition(latitude, longitude, position.altitude - down)


def rotation_of_quaternion(quaternion: Quaternion) -> np.ndarray:
    """Return the (3, 3) rotation of a unit quaternion (w, x, y, z)."""
    w, x, y, z = quaternion
    return Transform.create((0.0, 0.0, 0.0), (x, y, z, w)).rotation


def quaternion_of_angles(roll: float, pitch: float, yaw: float) -> Quaternion:
    """Return the quaternion (w, x, y, z) of yaw, then pitch, then roll, radians."""
    cr, sr = math.cos(roll / 2), math.sin(roll / 2)
    cp, sp = math.cos(pitch / 2), math.sin(pitch / 2)
    cy, sy = math.cos(yaw / 2), math.sin(yaw / 2)
    return (
        cr * cp * cy + sr * sp * sy,
        sr * cp * cy - cr * sp * sy,
        cr * sp * cy + sr * cp * sy,
        cr * cp * sy - sr * sp * cy,
    )


def rotation_of_angles(roll: float, pitch: float, yaw: float) -> np.ndarray:
    """Return the (3, 3) rotation of yaw, then pitch, then roll, radians."""
    return rotation_of_quaternion(quaternion_of_angles(roll, pitch, yaw))
