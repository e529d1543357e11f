# SPDX-License-Identifier: Apache-2.0
"""Convert ROS messages to the package's arrays, boxes and selections, and back.

Also makes the quality-of-service profiles of the package's topics.
"""

from __future__ import annotations

import array
import math
import sys
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseWithCovariance
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import BoundingBox2D, Detection2D, ObjectHypothesisWithPose

from tracker_ros.following.detections import Detection
from tracker_ros.following.selection import Selection, SelectionCode, SelectionRefused
from tracker_ros.following.selection_messages import (
    box_of,
    selection_from,
    selection_from_detection,
)
from tracker_ros.geometry import Box, xywh_to_cxcywh
from tracker_ros.io.image_encodings import decode_image
from tracker_ros.io.image_messages import nanoseconds, packet_from, rgb_from_image
from tracker_ros.io.video_encoder import VideoEncoder
from tracker_ros.masks import label_map, object_numbers
from tracker_ros.quoting import quote

__all__ = [
    "bounding_box_of",
    "box_of",
    "candidate_from",
    "compressed_from_array",
    "detection_of",
    "image_from_array",
    "keep_last",
    "packet_from",
    "packet_from_array",
    "rgb_from_image",
    "selection_from",
    "selection_from_detection",
    "selection_from_mask",
    "stamp_message",
    "stamp_nanoseconds",
]


def stamp_nanoseconds(header: Header) -> int:
    """Return the time of a header, nanoseconds."""
    return nanoseconds(header.stamp)


def stamp_message(nanoseconds: int) -> Time:
    """Return a time as a message; cameras send negative ones, too, which rclpy's Time refuses."""
    sec, nanosec = divmod(nanoseconds, 1_000_000_000)
    return Time(sec=max(-(2**31), min(sec, 2**31 - 1)), nanosec=nanosec)


def compressed_from_array(
    pixels: np.ndarray, header: Header, quality: int = 95
) -> CompressedImage:
    """Pack (H, W, 3) uint8 RGB as JPEG, in the format of image_transport."""
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    data = array.array("B")
    data.frombytes(encoded.tobytes())
    return CompressedImage(header=header, format="rgb8; jpeg compressed bgr8", data=data)


def packet_from_array(
    kind: type, encoder: VideoEncoder, pixels: np.ndarray, header: Header
) -> Any:
    """Encode (H, W, 3) uint8 RGB as the next packet of a stream.

    Args:
        kind: The class FFMPEGPacket, or Foxglove's CompressedVideo.
        encoder: Makes the stream.
        pixels: The image.
        header: Its header.
    """
    encoded = encoder.encode(pixels)
    data = array.array("B")
    data.frombytes(encoded)
    if kind.__name__ == "CompressedVideo":
        frame_id = header.frame_id
        return kind(timestamp=header.stamp, frame_id=frame_id, data=data, format=encoder.codec)
    height, width = pixels.shape[:2]
    return kind(
        header=header,
        width=width,
        height=height,
        encoding=f"{encoder.codec};yuv420p;bgr8;rgb8",
        pts=encoder.count - 1,
        flags=int(encoded.is_key),
        data=data,
    )


def image_from_array(pixels: np.ndarray, header: Header) -> Image:
    """Pack (H, W, 3) uint8 as rgb8, (H, W) uint8 as mono8 or (H, W) float32 as 32FC1.

    The data is passed as ``array.array``, which the message class takes as it is. It checks every
    single byte of anything else, which takes a tenth of a second for a large image.

    Raises:
        ValueError: The array is none of these.
    """
    encodings = {(3, "uint8"): "rgb8", (2, "uint8"): "mono8", (2, "float32"): "32FC1"}
    encoding = encodings.get((pixels.ndim, pixels.dtype.name))
    if encoding is None or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise ValueError(
            f"array is {pixels.dtype} of shape {pixels.shape}, expected uint8 (H, W, 3), "
            "uint8 (H, W) or float32 (H, W)"
        )
    packed: np.ndarray = np.ascontiguousarray(pixels)
    data = array.array("B")
    data.frombytes(packed.data.cast("B"))
    return Image(
        header=header,
        height=packed.shape[0],
        width=packed.shape[1],
        encoding=encoding,
        is_bigendian=int(sys.byteorder == "big"),
        step=packed.strides[0],
        data=data,
    )


def bounding_box_of(box: Box) -> BoundingBox2D:
    """Pack a box ``(x, y, w, h)``, pixels; the message holds its centre instead of its corner."""
    message = BoundingBox2D()
    cx, cy, width, height = xywh_to_cxcywh(np.array(box, dtype=np.float64)).tolist()
    message.center.position.x, message.center.position.y = cx, cy
    message.size_x, message.size_y = width, height
    return message


def detection_of(
    header: Header,
    box: Box,
    target_id: str,
    class_id: str,
    score: float,
    pose: PoseWithCovariance | None = None,
) -> Detection2D:
    """Pack a tracked box ``(x, y, w, h)`` with its one hypothesis, and its pose if it is known."""
    message = Detection2D(header=header, id=target_id, bbox=bounding_box_of(box))
    hypothesis = ObjectHypothesisWithPose()
    if pose is not None:
        hypothesis.pose = pose
    hypothesis.hypothesis.class_id = class_id
    hypothesis.hypothesis.score = float(score)
    message.results.append(hypothesis)
    return message


def candidate_from(message: Detection2D) -> Detection:
    """Unpack a detection, with the score of each of its classes."""
    scores: dict[str, float] = {}
    for result in message.results:
        name = result.hypothesis.class_id
        scores[name] = max(result.hypothesis.score, scores.get(name, -math.inf))
    return Detection(box_of(message.bbox), scores)


def selection_from_mask(message: Image, append: bool = False) -> Selection:
    """Unpack a request to follow a mask: mono8 or 8UC1, 0 beside the target, not 0 on it.

    Soft edges are cut at half; see `tracker_ros.masks`.

    Raises:
        SelectionRefused: The message has another encoding, is malformed or shows several objects.
    """
    encoding = message.encoding.strip().lower()
    if encoding not in ("mono8", "8uc1"):
        raise SelectionRefused(
            SelectionCode.INVALID_MASK,
            f"mask has encoding {quote(message.encoding)}: publish it as mono8 or 8UC1, 0 beside "
            "the target and 255 on it",
        )
    try:
        grey = decode_image("mono8", message.height, message.width, message.step, message.data)
    except ValueError as error:
        raise SelectionRefused(
            SelectionCode.INVALID_MASK, f"mask is malformed: {error}"
        ) from error
    header = message.header
    labels = label_map(grey[..., 0])
    objects = object_numbers(labels)
    if len(objects) > 1:
        raise SelectionRefused(
            SelectionCode.INVALID_MASK,
            f"mask shows {len(objects)} objects, {', '.join(map(str, objects))}: publish one of "
            "them at a time, the others on selection_mask_append",
        )
    mask = labels > 0
    return Selection(None, mask, stamp_nanoseconds(header), header.frame_id, append=append)


def keep_last(depth: int, *, reliable: bool = True, latched: bool = False) -> QoSProfile:
    """Return a new profile that keeps the latest messages.

    Each publisher and subscription needs its own: rclpy writes overrides into the given profile.

    Args:
        depth: How many messages are kept.
        reliable: Whether lost messages are sent again.
        latched: Whether late subscribers receive them, too (transient local).
    """
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )
