# SPDX-License-Identifier: Apache-2.0
"""What the camera is, and the messages that say so."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tracker_ros.following.target_state import TargetState
from tracker_ros.mavlink.dialect import load_dialect
from tracker_ros.mavlink.tracking_messages import TrackView

_MAVLINK_VERSION = 3
_NAME_BYTES = 32


@dataclass(frozen=True)
class CameraSettings:
    """What the camera is."""

    # its address: the vehicle's, and 100 to 105 for cameras
    system_id: int = 1
    component_id: int = 100
    model: str = "tracker_ros"
    version: tuple[int, int, int] = (0, 0, 0)  # major, minor and patch number of the software
    default_rate: float = 10.0  # messages per second of a stream without an interval of its own
    # side of the box around a point without radius, as a part of the image's width
    point_size: float = 0.1
    geo_status: bool = False  # whether CAMERA_TRACKING_GEO_STATUS is offered
    # whether TARGET_RELATIVE is offered, and sent to the autopilot unasked
    target_relative: bool = False
    # (3, 3) rotation from the camera (forward, right, down) to the vehicle's body
    mount: np.ndarray = field(default_factory=lambda: np.eye(3))


def heartbeat(view: TrackView) -> Any:
    """Return HEARTBEAT: active, booting while the model loads, standing by without images."""
    d = load_dialect()
    state = d.MAV_STATE_ACTIVE
    if not view.alive:
        state = d.MAV_STATE_STANDBY
    elif view.state is TargetState.LOADING:
        state = d.MAV_STATE_BOOT
    return d.MAVLink_heartbeat_message(
        d.MAV_TYPE_CAMERA, d.MAV_AUTOPILOT_INVALID, 0, 0, state, _MAVLINK_VERSION
    )


def camera_information(settings: CameraSettings, view: TrackView, uptime_s: float) -> Any:
    """Return CAMERA_INFORMATION."""
    d = load_dialect()
    flags = d.CAMERA_CAP_FLAGS_HAS_TRACKING_POINT | d.CAMERA_CAP_FLAGS_HAS_TRACKING_RECTANGLE
    if settings.geo_status:
        flags |= d.CAMERA_CAP_FLAGS_HAS_TRACKING_GEO_STATUS
    major, minor, patch = settings.version
    width, height = view.size or (0, 0)
    return d.MAVLink_camera_information_message(
        round(uptime_s * 1e3) % 2**32,
        _padded("tracker_ros"),
        _padded(settings.model),
        major | minor << 8 | patch << 16,
        *(math.nan, math.nan, math.nan),  # focal length and size of the sensor, mm
        *(width, height),
        0,
        flags,
        *(0, b""),  # no camera definition file
    )


def _padded(text: str) -> list[int]:
    """Return a text as the bytes of a vendor or model name, with a zero at the end."""
    return list(text.encode("utf-8")[: _NAME_BYTES - 1].ljust(_NAME_BYTES, b"\0"))
