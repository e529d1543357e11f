# SPDX-License-Identifier: Apache-2.0
"""The MAVLink messages that the camera speaks: pymavlink's ``common`` and one more.

``pymavlink.dialects.v20`` is MAVLink 2 whatever the environment says. `mavutil` is avoided: it
opens MAVLink 1 unless ``MAVLINK20`` was set before its import, and MAVLink 1 lacks the tracking
messages.

TARGET_RELATIVE belongs to MAVLink's ``development`` dialect, but no dialect of pymavlink 2.4.50
has it. So it is defined here; a definition of pymavlink's own takes precedence.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

AUTOPILOT = 1
"""Component id of an autopilot."""

DEVICE_NOT_OF_THIS_COMPONENT = range(1, 7)
"""Target camera ids of cameras without a component id of their own."""

TARGET_RELATIVE_ID = 511
TARGET_OBS_FRAME_BODY_FRD = 1
_TARGET_TYPE_VISION_OTHER = 3


@lru_cache(maxsize=1)
def load_dialect() -> Any:
    """Import and return pymavlink's module of messages, with TARGET_RELATIVE.

    Raises ImportError, which says how to install it, without pymavlink.
    """
    try:
        from pymavlink.dialects.v20 import common
    except ImportError as error:
        raise ImportError(
            "pymavlink is not installed: pip install pymavlink (2.4.42 or newer)"
        ) from error
    common.mavlink_map.setdefault(TARGET_RELATIVE_ID, _target_relative_class(common))
    return common


def target_relative(
    timestamp_us: int,
    target: int,
    position: Sequence[float],
    position_std: Sequence[float],
    attitude: Sequence[float],
) -> Any:
    """Return a TARGET_RELATIVE message in the vehicle's body frame.

    The time is that of the image, microseconds since 1970; the target's number 0 to 255. Position
    and its standard deviations are forward, right and down of the vehicle, metres. The attitude is
    a quaternion (w, x, y, z) from the body frame to north, east, down; zeros if it is not known.
    """
    message = load_dialect().mavlink_map[TARGET_RELATIVE_ID]
    return message(
        timestamp_us,
        target,
        TARGET_OBS_FRAME_BODY_FRD,
        *map(float, position),
        [float(value) for value in position_std],
        float("nan"),  # the direction in which the target points is not known
        [1.0, 0.0, 0.0, 0.0],
        [float(value) for value in attitude],
        _TARGET_TYPE_VISION_OTHER,
    )


def _target_relative_class(common: Any) -> Any:
    """Return the class of TARGET_RELATIVE, with what pymavlink needs to pack and decode it."""

    class TargetRelative(common.MAVLink_message):
        """TARGET_RELATIVE; fields as in MAVLink's ``development.xml``."""

        id = TARGET_RELATIVE_ID
        msgname = "TARGET_RELATIVE"
        fieldnames = [
            *("timestamp", "id", "frame", "x", "y", "z"),
            *("pos_std", "yaw_std", "q_target", "q_sensor", "type"),
        ]
        # On the wire the largest types come first.
        ordered_fieldnames = [
            *("timestamp", "x", "y", "z", "pos_std"),
            *("yaw_std", "q_target", "q_sensor", "id", "frame", "type"),
        ]
        fieldtypes = ["uint64_t", "uint8_t", "uint8_t", *["float"] * 7, "uint8_t"]
        orders = [0, 8, 9, 1, 2, 3, 4, 5, 6, 7, 10]  # places of the fields on the wire
        lengths = [1, 1, 1, 1, 3, 1, 4, 4, 1, 1, 1]
        array_lengths = [0, 0, 0, 0, 3, 0, 4, 4, 0, 0, 0]
        native_format = bytearray(b"<QfffffffBBB")
        crc_extra = 28
        unpacker = struct.Struct("<Q3f3ff4f4f3B")
        instance_field = "id"
        instance_offset = 68

        def __init__(self, *values: Any) -> None:
            super().__init__(self.id, self.msgname)
            self._fieldnames = self.fieldnames
            self._instance_field = self.instance_field
            self._instance_offset = self.instance_offset
            # ``id`` is a field here and the message's number in the class.
            for name, value in zip(self.fieldnames, values, strict=True):
                setattr(self, name, value)

        def pack(self, mav: Any, force_mavlink1: bool = False) -> bytes:
            flat: list[Any] = []
            for name in self.ordered_fieldnames:
                value = getattr(self, name)
                flat.extend(value if isinstance(value, (list, tuple)) else [value])
            payload = self.unpacker.pack(*flat)
            packed: bytes = self._pack(mav, self.crc_extra, payload, force_mavlink1=force_mavlink1)
            return packed

    return TargetRelative
