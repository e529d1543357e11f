# SPDX-License-Identifier: Apache-2.0
"""What a camera that measures space sends with each image, well or badly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from geometry_msgs.msg import TransformStamped
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from tracker_ros.nodes.messages import image_from_array

FIXED_FRAME = "odom"
DISTANCE_M = 3.0
MAX_SIDE = 2000
"""A broken image may claim any size; for a larger one no depth is made."""
NONE, GOOD = "none", "good"
CALIBRATIONS = (NONE, GOOD, GOOD, "zero", "not finite", "another size", "unknown model")
DEPTHS = (NONE, GOOD, GOOD, "cut", "another size", "encoding", "holes", "old")
TRANSFORMS = (NONE, GOOD, "old")


class Space:
    """Makes calibration, depth and transform for images.

    Args:
        frame_id: Of the camera.
        size: Width and height for which the camera is calibrated.

    Attributes:
        calibration: One of `CALIBRATIONS`: what is sent on `camera_info`.
        depth: One of `DEPTHS`.
        transform: One of `TRANSFORMS`: what is sent on `/tf`.
    """

    def __init__(self, frame_id: str, size: tuple[int, int]) -> None:
        self._frame_id = frame_id
        self._size = size
        self._depths: dict[tuple[int, int, str], Image] = {}
        self.heal()

    def heal(self) -> None:
        """Send nothing."""
        self.calibration = self.depth = self.transform = NONE

    def messages(self, image: Image | CompressedImage) -> dict[str, Any]:
        """Return what is to be sent with an image, by topic."""
        found: dict[str, Any] = {}
        size = self._size if isinstance(image, CompressedImage) else (image.width, image.height)
        if self.calibration != NONE:
            found["camera_info"] = self._camera_info(image.header, size)
        if self.depth != NONE and 0 < min(size) <= max(size) < MAX_SIDE:
            found["depth"] = self._depth_image(image.header, size)
        if self.transform != NONE:
            found["/tf"] = self._transform(image.header)
        return found

    def _camera_info(self, header: Any, size: tuple[int, int]) -> CameraInfo:
        width, height = size
        focal = {"zero": 0.0, "not finite": math.nan}.get(self.calibration, 0.9 * width)
        k = [focal, 0.0, width / 2, 0.0, focal, height / 2, 0.0, 0.0, 1.0]
        info = CameraInfo(header=header, width=width, height=height, k=k, d=[0.0] * 5)
        info.p = [*k[:3], 0.0, *k[3:6], 0.0, *k[6:], 0.0]
        info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
        known = self.calibration != "unknown model"
        info.distortion_model = "plumb_bob" if known else "mirror ball"
        if self.calibration == "another size":
            info.width, info.height = width // 3, height
        return info

    def _depth_image(self, header: Any, size: tuple[int, int]) -> Image:
        key = (*size, self.depth)
        if key not in self._depths:
            width, height = (size[0] // 2, size[1]) if self.depth == "another size" else size
            far = 0 if self.depth == "holes" else round(DISTANCE_M * 1000)
            rows = np.full((height, width), far, np.uint16).view(np.uint8)
            message = image_from_array(rows, header)
            message.width, message.encoding = width, "16UC1"
            if self.depth == "cut":
                message.data = message.data[: len(message.data) // 2]
            if self.depth == "encoding":
                message.encoding = "secret9"
            self._depths.clear()
            self._depths[key] = message
        message = self._depths[key]
        message.header = header
        if self.depth == "old":
            message.header = type(header)(frame_id=header.frame_id)
            message.header.stamp.sec = max(header.stamp.sec - 5, 0)
        return message

    def _transform(self, header: Any) -> TFMessage:
        link = TransformStamped(child_frame_id=self._frame_id)
        link.header.frame_id = FIXED_FRAME
        link.header.stamp.sec = header.stamp.sec - (60 if self.transform == "old" else 0)
        link.header.stamp.nanosec = header.stamp.nanosec
        link.transform.rotation.w = 1.0
        return TFMessage(transforms=[link])
