# SPDX-License-Identifier: Apache-2.0
"""What the tracker knows of its target, as MAVLink messages."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracker_ros.following.target_state import TargetState
from tracker_ros.geometry import Box
from tracker_ros.mavlink.dialect import load_dialect, target_relative
from tracker_ros.mavlink.vehicle import (
    OPTICAL_TO_FORWARD,
    GeoPosition,
    VehicleState,
    moved,
    rotation_of_quaternion,
)

_NAN = math.nan
_NO_ATTITUDE = (0.0, 0.0, 0.0, 0.0)
_FLAGS = {
    TargetState.IDLE: "IDLE",
    TargetState.LOADING: "IDLE",
    TargetState.TRACKING: "ACTIVE",
    TargetState.UNCERTAIN: "ACTIVE",
    TargetState.LOST: "ERROR",
}


@dataclass(frozen=True)
class TrackView:
    """What is seen of the target in one image."""

    state: TargetState = TargetState.IDLE
    box: Box | None = None  # its box ``(x, y, w, h)`` in pixels; None if there is none to show
    # width and height of the image, pixels; None if they are not known
    size: tuple[int, int] | None = None
    target_id: str = ""
    alive: bool = False  # whether images and the tracker are there

    @property
    def flags(self) -> int:
        """CAMERA_TRACKING_STATUS_FLAGS: ACTIVE, ERROR (lost, no images) or IDLE."""
        name = _FLAGS[self.state] if self.alive else "ERROR"
        return int(getattr(load_dialect(), f"CAMERA_TRACKING_STATUS_FLAGS_{name}"))


@dataclass(frozen=True)
class TargetPosition:
    """Where the target is."""

    stamp_us: int  # time of the image, microseconds since 1970
    target: int
    position: np.ndarray  # (3,) metres in the camera's optical frame: right, down, forward
    covariance: np.ndarray  # (3, 3) of the position, square metres
    seen_at: float  # time of the image by the clock of the vehicle's attitudes, seconds


def image_status(view: TrackView, as_point: bool) -> Any:
    """Return CAMERA_TRACKING_IMAGE_STATUS, on request with a point and a radius."""
    dialect = load_dialect()
    mode = data = 0
    point = [_NAN, _NAN, _NAN]
    corners = [_NAN, _NAN, _NAN, _NAN]
    if view.flags:
        mode = dialect.CAMERA_TRACKING_MODE_RECTANGLE
        if as_point:
            mode = dialect.CAMERA_TRACKING_MODE_POINT
    if view.flags and view.box is not None and view.size is not None:
        data = dialect.CAMERA_TRACKING_TARGET_DATA_IN_STATUS
        (x, y, w, h), (width, height) = view.box, view.size
        if as_point:
            point = [
                _unit((x + w / 2) / width),
                _unit((y + h / 2) / height),
                _unit(max(w, h) / 2 / width),
            ]
        else:
            corners = [
                _unit(x / width),
                _unit(y / height),
                _unit((x + w) / width),
                _unit((y + h) / height),
            ]
    return dialect.MAVLink_camera_tracking_image_status_message(
        view.flags, mode, data, *point, *corners
    )


def geo_status(
    view: TrackView, target: TargetPosition, vehicle: VehicleState, mount: np.ndarray
) -> Any | None:
    """Return CAMERA_TRACKING_GEO_STATUS; None while the vehicle's attitude or position is unknown.

    The mount is the (3, 3) rotation from the camera (forward, right, down) to the vehicle's body.
    """
    attitude = vehicle.attitude_at(target.seen_at)
    here = vehicle.position_at(target.seen_at)
    if attitude is None or here is None:
        return None
    turn = rotation_of_quaternion(attitude) @ mount @ OPTICAL_TO_FORWARD
    there: GeoPosition = moved(here, turn @ target.position)
    spread = turn @ target.covariance @ turn.T
    return load_dialect().MAVLink_camera_tracking_geo_status_message(
        view.flags,
        round(there.latitude * 1e7),
        round(there.longitude * 1e7),
        there.altitude,
        _root(spread[0, 0] + spread[1, 1]),
        _root(spread[2, 2]),
        *(_NAN, _NAN, _NAN, _NAN),  # velocity and its accuracy
        float(np.linalg.norm(target.position)),
        *(_NAN, _NAN),  # heading and its accuracy
    )


def relative_position(target: TargetPosition, vehicle: VehicleState, mount: np.ndarray) -> Any:
    """Return TARGET_RELATIVE in the vehicle's body frame; arguments as of `geo_status`."""
    turn = mount @ OPTICAL_TO_FORWARD
    spread = turn @ target.covariance @ turn.T
    return target_relative(
        target.stamp_us,
        target.target % 256,
        (turn @ target.position).tolist(),
        [_root(spread[i, i]) for i in range(3)],
        vehicle.attitude_at(target.seen_at) or _NO_ATTITUDE,
    )


def _unit(value: float) -> float:
    """Return a coordinate within the image: 0 to 1."""
    return min(max(value, 0.0), 1.0)


def _root(variance: float) -> float:
    """Return a standard deviation; NaN if the variance is not known."""
    return math.sqrt(variance) if variance >= 0 else _NAN
