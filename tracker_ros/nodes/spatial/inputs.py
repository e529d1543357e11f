# SPDX-License-Identifier: Apache-2.0
"""What the tracker needs to know where a target is: calibration, depth images and transforms.

All of it is taken when a frame needs it, in the worker's thread, and nothing there waits: what is
missing or unusable is logged, each problem at most every ten seconds, and left out.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from tracker_ros.io.depth_images import DepthImage
from tracker_ros.nodes.messages import keep_last, stamp_nanoseconds
from tracker_ros.nodes.monitoring import LogLimiter
from tracker_ros.nodes.spatial.polled_topic import PolledTopic
from tracker_ros.spatial.camera import CalibrationError, CameraModel
from tracker_ros.spatial.transform import Transform

__all__ = ["Complaints", "FixedFrame", "SpatialInputs"]

_COMPLAIN_EVERY_S = 10.0
_KEPT_DEPTH_IMAGES = 8
_KEPT_TRANSFORMS = 1000  # messages; robots send some hundred a second
_MAX_TF_DELAY_S = 0.1
_JUMP_NS = 1_000_000_000
_MAX_DEPTH_M = 1000.0
_STAMP_END = 12  # bytes of a raw message: how it is encoded, seconds, nanoseconds


class Complaints:
    """Logs problems, each kind at most every ten seconds."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._limiter = LogLimiter(_COMPLAIN_EVERY_S)

    def warn(self, text: str, kind: str = "") -> None:
        """Log a warning unless it, or one of its kind, was logged a moment ago."""
        if self._limiter.allows(kind or text):
            self._node.get_logger().warning(text)


class FixedFrame:
    """Transforms from a camera's frame to a fixed one, from ``/tf``.

    Args:
        node: The node.
        frame: The fixed frame.

    Raises:
        ImportError: tf2_ros is not installed; names the package.
    """

    def __init__(self, node: Node, frame: str) -> None:
        try:
            import tf2_ros
            from tf2_msgs.msg import TFMessage
        except ImportError as error:
            raise ImportError(
                f"fixed_frame is '{frame}', which needs tf2_ros ({error}): install the package "
                "ros-$ROS_DISTRO-tf2-ros-py, or leave fixed_frame empty"
            ) from error
        self.frame = frame
        self._missing: type[Exception] = tf2_ros.TransformException
        self._late: type[Exception] = tf2_ros.ExtrapolationException
        self._newest_ns = 0
        self._buffer: Any = tf2_ros.Buffer()
        self._moving = PolledTopic(node, TFMessage, "/tf", keep_last(_KEPT_TRANSFORMS))
        lasting = keep_last(_KEPT_TRANSFORMS, latched=True)
        self._static = PolledTopic(node, TFMessage, "/tf_static", lasting)

    def close(self) -> None:
        """Stop listening."""
        self._moving.close()
        self._static.close()

    def lookup(self, camera_frame: str, stamp_ns: int) -> Transform:
        """Return the transform at a time, or the newest one if it is at most 0.1 s older.

        Raises:
            ValueError: There is none; says why.
        """
        self.take(stamp_ns)
        try:
            try:
                found = self._lookup(camera_frame, Time(nanoseconds=stamp_ns))
            except self._late:
                found = self._lookup(camera_frame, Time())
                behind = (stamp_ns - stamp_nanoseconds(found.header)) / 1e9
                if not 0.0 <= behind <= _MAX_TF_DELAY_S:
                    raise
        except self._missing as error:
            raise ValueError(str(error)) from error
        moved, turned = found.transform.translation, found.transform.rotation
        quaternion = (turned.x, turned.y, turned.z, turned.w)
        return Transform.create((moved.x, moved.y, moved.z), quaternion)

    def take(self, stamp_ns: int) -> None:
        """Take the transforms that have come, and start anew where time has jumped back.

        To take what a busy robot sends in two seconds needs a third of a second, so this is to be
        called for each image.

        tf2 refuses what is much older than what it has, so transforms from before the jump, even
        those that still wait, would keep the later ones out.
        """
        jumped = stamp_ns < self._newest_ns - _JUMP_NS
        self._newest_ns = stamp_ns
        if jumped:
            self._buffer.clear()
        for message in self._static.take():
            for transform in message.transforms:
                self._buffer.set_transform_static(transform, "track")
        for message in self._moving.take():
            for transform in message.transforms:
                if not jumped or stamp_nanoseconds(transform.header) <= stamp_ns + _JUMP_NS:
                    self._buffer.set_transform(transform, "track")

    def _lookup(self, camera_frame: str, when: Time) -> Any:
        return self._buffer.lookup_transform(self.frame, camera_frame, when)


class SpatialInputs:
    """The newest calibration and the last depth images of a camera, as of the last `update`.

    Args:
        node: The node.
        complaints: Where problems are logged.
        depth_transport: ``raw`` or ``compressedDepth``.

    Attributes:
        rectified: Whether the images are rectified.
        depth_tolerance_s: By how much the stamps of an image and its depth may differ.
    """

    def __init__(self, node: Node, complaints: Complaints, depth_transport: str = "raw") -> None:
        self._node = node
        self._complaints = complaints
        self._depths: deque[Image | CompressedImage] = deque(maxlen=_KEPT_DEPTH_IMAGES)
        self._info_topic = node.resolve_topic_name("camera_info")
        self._depth_topic = node.resolve_topic_name("depth")
        self._depth_source: tuple[type, str] = (Image, "depth")
        if depth_transport == "compressedDepth":
            self._depth_topic += "/compressedDepth"
            self._depth_source = (CompressedImage, self._depth_topic)
        self._subscribed: tuple[PolledTopic, PolledTopic] | None = None
        self._info_bytes = b""
        self._info: CameraInfo | None = None
        self._camera_key: Any = None
        self._camera: CameraModel | CalibrationError | None = None
        self.rectified = False
        self.depth_tolerance_s = 0.0

    def subscribe(self) -> None:
        """Expect calibrations and depth images from now on."""
        self.unsubscribe()
        latest, several = (keep_last(n, reliable=False) for n in (1, _KEPT_DEPTH_IMAGES))
        self._subscribed = (
            PolledTopic(self._node, CameraInfo, "camera_info", latest, raw=True),
            PolledTopic(self._node, *self._depth_source, several),
        )

    def unsubscribe(self) -> None:
        """Expect no more, and forget what has arrived."""
        for topic in self._subscribed or ():
            topic.close()
        self._subscribed = self._info = self._camera_key = None
        self._info_bytes = b""
        self._depths.clear()

    def update(self) -> None:
        """Take the calibration and the depth images that have come."""
        subscribed = self._subscribed
        if subscribed is None:
            return
        infos, depths = subscribed
        for data in infos.take():
            # A camera repeats its calibration with every image; nothing but the stamp is new.
            if data[_STAMP_END:] != self._info_bytes:
                self._info_bytes = data[_STAMP_END:]
                self._info = deserialize_message(data, CameraInfo)
        self._depths.extend(depths.take())

    @property
    def has_depth(self) -> bool:
        """Whether depth images arrive."""
        return bool(self._depths)

    def camera(self, width: int, height: int) -> CameraModel | None:
        """Return the calibrated camera of images of a size; None, with a warning, if unknown."""
        info = self._info
        if info is None:
            self._complaints.warn(
                f"no direction, distance or pose: no camera_info on {self._info_topic}; publish "
                "the camera's calibration, or remap camera_info to its topic",
            )
            return None
        key = (info.k.tobytes(), info.p.tobytes(), info.r.tobytes(), tuple(info.d),
               info.distortion_model, info.width, info.height, info.binning_x, info.binning_y,
               info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height,
               self.rectified)  # fmt: skip
        if key != self._camera_key:
            self._camera_key = key
            try:
                self._camera = CameraModel.from_info(info, self.rectified)
            except CalibrationError as error:
                self._camera = error
        try:
            if isinstance(self._camera, CameraModel):
                self._camera.check_image_size(width, height)
                return self._camera
        except CalibrationError as error:
            self._warn_of_calibration(error)
        else:
            self._warn_of_calibration(self._camera)
        return None

    def depth(self, stamp_ns: int, width: int, height: int) -> DepthImage | None:
        """Return the depth image nearest to a stamp; None, with a warning, if none is usable."""
        depths = tuple(self._depths)
        if not depths:
            return None
        apart, message = min(
            ((abs(stamp_nanoseconds(m.header) - stamp_ns) / 1e9, m) for m in depths),
            key=lambda pair: pair[0],
        )
        if apart > self.depth_tolerance_s:
            self._complaints.warn(
                f"depth on {self._depth_topic} is not used: its nearest stamp is {apart:.3f} s "
                f"from the image's, expected at most depth_tolerance ({self.depth_tolerance_s:g} "
                "s): synchronise the cameras, or raise depth_tolerance",
                kind="depth stamp",
            )
            return None
        try:
            image = DepthImage(message)
        except ValueError as error:
            self._complaints.warn(f"depth on {self._depth_topic} is not used: {error}")
            return None
        if (image.width, image.height) != (width, height):
            self._complaints.warn(
                f"depth on {self._depth_topic} is not used: it is {image.width}x{image.height} "
                f"px, the image {width}x{height}: use the depth that is registered to the colour "
                "image (depth_registered, aligned_depth_to_color)",
            )
            return None
        if image.is_float:
            row = image.region((0, height // 2, width, height // 2 + 1))
            seen = row[row > 0]
            if seen.size and (typical := float(np.median(seen))) > _MAX_DEPTH_M:
                self._complaints.warn(
                    f"depth on {self._depth_topic} is not used: it says that something is "
                    f"{typical:g} m away, expected at most {_MAX_DEPTH_M:g}: publish metres as "
                    "32FC1, millimetres as 16UC1",
                    kind="depth unit",
                )
                return None
        return image

    def _warn_of_calibration(self, error: object) -> None:
        text = f"no direction, distance or pose: {error}"
        self._complaints.warn(f"{text} (topic {self._info_topic})")
